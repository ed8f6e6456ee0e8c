"""The supervisor's totals: what all workers ever counted, and how it is shown to Prometheus.

A worker's death takes nothing away: its counters stay added up, only its gauges go. The supervisor's own numbers are
gauges and counters in the same tables, under the worker id ``SUPERVISOR``.

A histogram's bucket may show an example, the trace of one request that fell into it: scrapers that ask for OpenMetrics
get it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import gevent
from prometheus_client import Metric as PrometheusMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from charon.base.names import Metric
from charon.telemetry.families import FAMILIES, MAX_SERIES, OVERFLOW, Current, Family

SUPERVISOR: Final = -1

Labels = tuple[str, ...]

_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")


class HistogramTotal:
    """Observations per bucket (not cumulative, the last one infinite), their sum, and the last example of a bucket."""

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def add(self, counts: list[int], total: float) -> None:
        self.counts = [mine + more for mine, more in zip(self.counts, counts, strict=True)]
        self.total += total


class Totals(Collector):
    """Everything that ``/metrics`` shows. ``add`` takes what a worker's ledger and its reports give."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._counters: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, HistogramTotal]] = {}
        self._gauges: dict[int, dict[str, dict[Labels, float]]] = {}
        self._current: Current | None = None

    def add(self, worker_id: int, delta: dict[str, Any]) -> None:
        """Add to the counters; gauges, where there are any in ``delta``, replace those of the same worker.

        ValueError when the delta holds anything unknown or malformed; nothing of it is added then.
        """
        checked = _check(delta)
        for family, labels, amount in checked.counters:
            self._add_counter(family, labels, amount)
        for family, labels, counts, total in checked.histograms:
            if self._is_current(family, labels):
                table = self._histograms.setdefault(family.name, {})
                labels = self._room(table, labels)
                if labels not in table:
                    table[labels] = HistogramTotal(len(family.buckets))
                table[labels].add(counts, total)
        for family, labels, bucket, exemplar in checked.exemplars:
            observed = self._histograms.get(family.name, {}).get(labels)
            if observed is not None:
                observed.exemplars[bucket] = exemplar
        if "gauges" in delta:
            gauges: dict[str, dict[Labels, float]] = {}
            for family, labels, value in checked.gauges:
                if self._is_current(family, labels):
                    gauges.setdefault(family.name, {})[labels] = value
            self._gauges[worker_id] = gauges

    def worker_gone(self, worker_id: int) -> None:
        """A worker ended: what it counted stays, its gauges vanish."""
        self._gauges.pop(worker_id, None)

    def retain(self, endpoints: Iterable[tuple[str, str]], services: Iterable[str], listeners: Iterable[str]) -> None:
        """These are all there are: (service, endpoint name) pairs, services, listeners.

        The series of others are dropped, and what workers still report of them later is not shown again.
        """
        self._current = Current(endpoints, services, listeners)
        for table in self._tables():
            for name, series in table.items():
                family = FAMILIES[name]
                for labels in [labels for labels in series if not self._is_current(family, labels)]:
                    del series[labels]

    # The supervisor's own numbers

    def count(self, name: str, labels: Labels = (), amount: float = 1) -> None:
        """Add to a counter. ValueError when ``name`` and ``labels`` are not those of one."""
        self._add_counter(_family(name, "counter", labels), labels, amount)

    def series(self, name: str) -> dict[Labels, float]:
        """The series of a counter as they are now."""
        return dict(self._counters.get(name, {}))

    def counted(self, name: str) -> float:
        """The sum of all series of a counter."""
        return sum(self._counters.get(name, {}).values())

    def set_gauge(self, name: str, labels: Labels, value: float) -> None:
        """Set a gauge. ValueError when ``name`` and ``labels`` are not those of one."""
        family = _family(name, "gauge", labels)
        if self._is_current(family, labels):
            self._gauges.setdefault(SUPERVISOR, {}).setdefault(name, {})[labels] = value

    def set_gauges(self, name: str, values: Mapping[Labels, float]) -> None:
        """Set all series of a gauge; those that are not in ``values`` are gone. ValueError as for :meth:`set_gauge`."""
        table = self._gauges.setdefault(SUPERVISOR, {})
        table[name] = {}
        for labels, value in values.items():
            self.set_gauge(name, labels, value)

    def started(self, version: str, wall: float) -> None:
        """Charon ``version`` started at ``wall``, in Unix seconds. Counters that stand alone begin to be shown."""
        for family in FAMILIES.values():
            if family.kind == "counter" and not family.labels:
                self.count(family.name, (), 0)
        self.set_gauge(Metric.BUILD_INFO, (version, platform.python_version(), gevent.__version__), 1)
        self.set_gauge(Metric.START_TIME, (), wall)

    def config_loaded(self, ok: bool, wall: float, digest: str) -> None:
        """The configuration was loaded at ``wall``, in Unix seconds, or could not be.

        ``digest`` is that of the one in force.
        """
        self._loaded(Metric.CONFIG_RELOAD_SUCCESSFUL, Metric.CONFIG_RELOAD_TIME, ok, wall)
        self.set_gauges(Metric.CONFIG_INFO, {(digest,): 1})

    def registry_loaded(self, ok: bool, wall: float) -> None:
        """The registry was loaded at ``wall``, in Unix seconds, or could not be."""
        self._loaded(Metric.REGISTRY_RELOAD_SUCCESSFUL, Metric.REGISTRY_RELOAD_TIME, ok, wall)

    def workers(self, running: int) -> None:
        """How many workers are running now."""
        self.set_gauge(Metric.WORKERS, (), running)

    def worker_replaced(self) -> None:
        """A worker died and another one was started."""
        self.count(Metric.WORKER_RESTARTS)

    # What is shown elsewhere

    def counter(self, name: str) -> Mapping[Labels, float]:
        """Every series of a counter, for reading."""
        return self._counters.get(name, {})

    def histogram(self, name: str) -> Mapping[Labels, HistogramTotal]:
        """Every series of a histogram, for reading."""
        return self._histograms.get(name, {})

    def gauge(self, name: str) -> dict[Labels, float]:
        """Every series of a gauge, added up over all processes."""
        summed: dict[Labels, float] = {}
        for table in self._gauges.values():
            for labels, value in table.get(name, {}).items():
                summed[labels] = summed.get(labels, 0) + value
        return summed

    # Exposition

    def collect(self) -> Iterator[PrometheusMetric]:
        """The families that have series, in the order of their table, as prometheus_client wants them."""
        gauges = self._summed_gauges()
        for family in FAMILIES.values():
            if family.kind == "histogram":
                if observed := self._histograms.get(family.name):
                    yield _histogram(family, observed)
            elif series := (self._counters if family.kind == "counter" else gauges).get(family.name):
                yield _simple(family, series)

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text for a scraper that sent ``accept``: OpenMetrics when asked for, else plain text."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # what prometheus_client makes of a version that is no version
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return content_type, encode(self)

    def _loaded(self, successful: str, when: str, ok: bool, wall: float) -> None:
        self.set_gauge(successful, (), 1 if ok else 0)
        if ok:
            self.set_gauge(when, (), wall)

    def _add_counter(self, family: Family, labels: Labels, amount: float) -> None:
        if self._is_current(family, labels):
            series = self._counters.setdefault(family.name, {})
            labels = self._room(series, labels)
            series[labels] = series.get(labels, 0) + amount

    def _room(self, series: dict[Labels, Any], labels: Labels) -> Labels:
        if labels in series or len(series) < self._max_series:
            return labels
        return (OVERFLOW,) * len(labels)

    def _is_current(self, family: Family, labels: Labels) -> bool:
        return self._current is None or self._current.holds(family, labels)

    def _tables(self) -> list[dict[str, dict[Labels, Any]]]:
        tables: list[dict[str, dict[Labels, Any]]] = [*self._gauges.values()]
        tables += [self._counters, self._histograms]
        return tables

    def _summed_gauges(self) -> dict[str, dict[Labels, float]]:
        """What all processes report, added up; each of them counts its own connections and requests."""
        summed: dict[str, dict[Labels, float]] = {}
        for table in self._gauges.values():
            for name, series in table.items():
                total = summed.setdefault(name, {})
                for labels, value in series.items():
                    place = self._room(total, labels)
                    total[place] = total.get(place, 0) + value
        return summed


class _Checked:
    """The parts of a delta, each item of which is known to be well formed."""

    def __init__(self) -> None:
        self.counters: list[tuple[Family, Labels, float]] = []
        self.histograms: list[tuple[Family, Labels, list[int], float]] = []
        self.gauges: list[tuple[Family, Labels, float]] = []
        self.exemplars: list[tuple[Family, Labels, int, Exemplar]] = []


def _check(delta: dict[str, Any]) -> _Checked:
    if not delta.keys() <= {"counters", "histograms", "gauges", "exemplars"}:
        raise ValueError(f"unknown parts in a delta: {sorted(delta)}")
    checked = _Checked()
    for name, items in delta.get("counters", {}).items():
        for labels, amount in items:
            if amount < 0:
                raise ValueError(f"{name} would go backwards")
            checked.counters.append((_family(name, "counter", labels), tuple(labels), amount))
    for name, items in delta.get("histograms", {}).items():
        for labels, counts, total in items:
            family = _family(name, "histogram", labels)
            if len(counts) != len(family.buckets) + 1 or min(counts) < 0:
                raise ValueError(f"{name} has other buckets")
            checked.histograms.append((family, tuple(labels), counts, total))
    for name, items in delta.get("gauges", {}).items():
        for labels, value in items:
            checked.gauges.append((_family(name, "gauge", labels), tuple(labels), float(value)))
    for name, items in delta.get("exemplars", {}).items():
        for labels, bucket, trace_id, value, wall in items:
            family = _family(name, "histogram", labels)
            if not 0 <= bucket <= len(family.buckets) or not _TRACE_ID.fullmatch(trace_id):
                raise ValueError(f"{name} has an example that is none")
            exemplar = Exemplar({"trace_id": trace_id}, float(value), float(wall))
            checked.exemplars.append((family, tuple(labels), int(bucket), exemplar))
    return checked


def _family(name: str, kind: str, labels: Iterable[str]) -> Family:
    family = FAMILIES.get(name)
    if family is None or family.kind != kind:
        raise ValueError(f"{name} is no {kind} family")
    if len(tuple(labels)) != len(family.labels):
        raise ValueError(f"{name} has the labels {family.labels}")
    return family


def _simple(family: Family, series: dict[Labels, float]) -> PrometheusMetric:
    metric: CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily
    if family.name == Metric.BUILD_INFO:
        metric = InfoMetricFamily(family.name.removesuffix("_info"), family.help, labels=())
        for labels in series:
            metric.add_metric((), dict(zip(family.labels, labels, strict=True)))
        return metric
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in series.items():
        metric.add_metric(labels, value)
    return metric


def _histogram(family: Family, series: dict[Labels, HistogramTotal]) -> PrometheusMetric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    bounds = [*(str(bound) for bound in family.buckets), "+Inf"]
    for labels, histogram in series.items():
        cumulative = 0
        buckets: list[Any] = []
        for number, (bound, count) in enumerate(zip(bounds, histogram.counts, strict=True)):
            cumulative += count
            exemplar = histogram.exemplars.get(number)
            buckets.append((bound, cumulative) if exemplar is None else (bound, cumulative, exemplar))
        metric.add_metric(labels, buckets, sum_value=histogram.total)
    return metric
