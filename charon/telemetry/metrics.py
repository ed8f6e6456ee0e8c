"""What a worker counts: plain numbers on plain objects, handed to the supervisor as deltas.

Hot code holds a :class:`ListenerMetrics` or :class:`UpstreamMetrics` and adds to its attributes; requests go through
:meth:`WorkerMetrics.http_request`. :meth:`WorkerMetrics.collect` gives what came since its last call.
Labels never hold what a peer chose freely: methods are folded, statuses bounded, and each family holds a bounded
number of series, with one named ``overflow`` for the rest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Final

from charon.base.names import NO_UPSTREAM, Metric
from charon.telemetry.families import CONNECTION_BUCKETS, FAMILIES, OVERFLOW, REQUEST_BUCKETS

Delta = dict[str, dict[str, list[Any]]]
"""``counters``: name to ``[labels, increase]``; ``histograms``: name to ``[labels, increases per bucket, sum]``;
``gauges``: name to ``[labels, value now]``. Names are :class:`charon.base.names.Metric`, labels lists of strings."""

MAX_SERIES: Final = 2000
OTHER: Final = "OTHER"
OK: Final = "ok"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


class Histogram:
    """Observations since the last collection. ``counts`` are per bucket, not cumulative; the last one is infinite."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def take(self) -> tuple[list[int], float] | None:
        """What was observed, and forget it; None when there was nothing."""
        if not any(self.counts):
            return None
        taken = self.counts, self.total
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        return taken


class HttpSeries:
    """Requests of one method, status and upstream, and the histogram shared by all its statuses."""

    __slots__ = ("count", "latency")

    def __init__(self, latency: Histogram) -> None:
        self.count = 0
        self.latency = latency


class ListenerMetrics:
    """Numbers of one listener; add to them directly. The first two are gauges, which are also taken from."""

    __slots__ = (
        "accept_errors",
        "accepted",
        "connections",
        "errors",
        "in_flight",
        "received_bytes",
        "requests",
        "sent_bytes",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.in_flight = 0
        self.accepted = 0
        self.requests = 0
        self.errors = 0
        self.accept_errors = 0
        self.received_bytes = 0
        self.sent_bytes = 0


class UpstreamMetrics:
    """Numbers of one endpoint of one service; add to them directly. The first two are gauges."""

    __slots__ = ("connect_time", "connects", "in_flight", "pool_idle", "pool_reused")

    def __init__(self) -> None:
        self.in_flight = 0
        self.pool_idle = 0
        self.pool_reused = 0
        self.connects: dict[str, int] = {}
        self.connect_time = Histogram(REQUEST_BUCKETS)

    def connected(self, seconds: float) -> None:
        """A connection was established after ``seconds``."""
        self.connects[OK] = self.connects.get(OK, 0) + 1
        self.connect_time.observe(seconds)

    def connect_failed(self, reason: str) -> None:
        """A connection could not be established; ``reason`` is a reason word."""
        self.connects[reason] = self.connects.get(reason, 0) + 1


_LISTENER_COUNTERS: Final = (
    (Metric.CONNECTIONS_TOTAL, "accepted"),
    (Metric.LISTENER_REQUESTS, "requests"),
    (Metric.LISTENER_ERRORS, "errors"),
    (Metric.ACCEPT_ERRORS, "accept_errors"),
    (Metric.RECEIVED_BYTES, "received_bytes"),
    (Metric.SENT_BYTES, "sent_bytes"),
)
_LISTENER_GAUGES: Final = ((Metric.CONNECTIONS, "connections"), (Metric.HTTP_IN_FLIGHT, "in_flight"))
_UPSTREAM_GAUGES: Final = ((Metric.UPSTREAM_REQUESTS_IN_FLIGHT, "in_flight"), (Metric.UPSTREAM_POOL_IDLE, "pool_idle"))


class WorkerMetrics:
    """All that one worker counts."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._http: dict[tuple[str, int, str], HttpSeries] = {}
        self._latency: dict[tuple[str, str], Histogram] = {}
        self._tcp_duration: dict[tuple[str, str], Histogram] = {}
        self._listeners: dict[str, ListenerMetrics] = {}
        self._upstreams: dict[tuple[str, str], UpstreamMetrics] = {}
        self._counters: dict[str, dict[tuple[str, ...], float]] = {}
        self._gauges: dict[str, dict[tuple[str, ...], float]] = {}
        self._totals: dict[tuple[str, tuple[str, ...]], float] = {}
        self._retained: set[tuple[str, str]] | None = None

    def listener(self, name: str) -> ListenerMetrics:
        """The numbers of a listener, to be held by it."""
        return self._listeners.setdefault(name, ListenerMetrics())

    def upstream(self, service: str, name: str) -> UpstreamMetrics:
        """The numbers of an endpoint, to be held by it."""
        if self._retained is not None:
            self._retained.add((service, name))
        return self._upstreams.setdefault((service, name), UpstreamMetrics())

    def http_request(self, method: str, status: int, upstream: str, seconds: float) -> None:
        """One request was answered. ``upstream`` is an endpoint's name, or ``NO_UPSTREAM``."""
        series = self._http.get((method, status, upstream))
        if series is None:
            series = self._new_http(method, status, upstream)
        series.count += 1
        latency = series.latency
        latency.counts[bisect_left(REQUEST_BUCKETS, seconds)] += 1
        latency.total += seconds

    def tcp_connection(self, listener: str, upstream: str, outcome: str, seconds: float) -> None:
        """One relayed connection ended. ``outcome`` is ``OK`` or a reason word."""
        self.count(Metric.TCP_CONNECTIONS, (listener, upstream, outcome))
        histogram = self._tcp_duration.get((listener, upstream))
        if histogram is None:
            key = (listener, upstream) if len(self._tcp_duration) < self._max_series else (OVERFLOW, OVERFLOW)
            histogram = self._tcp_duration.setdefault(key, Histogram(CONNECTION_BUCKETS))
        histogram.observe(seconds)

    def retry(self, method: str) -> None:
        """A request is tried once more."""
        self.count(Metric.HTTP_RETRIES, (fold_method(method),))

    def count(self, family: str, labels: tuple[str, ...] = (), amount: float = 1) -> None:
        """Add to any other counter; ``labels`` in the order of its family. ValueError when it is not such a counter."""
        series = self._counters.get(family)
        if series is None:
            series = self._new_family(family, labels)
        if labels not in series and len(series) >= self._max_series:
            labels = (OVERFLOW,) * len(labels)
        series[labels] = series.get(labels, 0) + amount

    def gauge(self, family: str, labels: tuple[str, ...], value: float) -> None:
        """Set any other gauge, for the next collection only: what is not set again is gone. ValueError as above."""
        known = FAMILIES.get(family)
        if known is None or known.kind != "gauge" or len(known.labels) != len(labels):
            raise ValueError(f"{family} is not a gauge with {len(labels)} labels")
        series = self._gauges.setdefault(family, {})
        if labels in series or len(series) < self._max_series:
            series[labels] = value

    def count_up_to(self, family: str, labels: tuple[str, ...], total: float) -> None:
        """Add to a counter what ``total``, which is kept elsewhere and only grows, grew by since the last call."""
        grown = total - self._totals.get((family, labels), 0)
        if grown > 0:
            self.count(family, labels, grown)
            self._totals[family, labels] = total

    def retain_upstreams(self, endpoints: Iterable[tuple[str, str]]) -> None:
        """Only these (service, endpoint) pairs are left: the series of others go with the next collection."""
        self._retained = set(endpoints)

    def collect(self) -> Delta:
        """What was counted since the last call, and the gauges as they are now; plain values that JSON can carry."""
        counters: dict[str, list[Any]] = {}
        histograms: dict[str, list[Any]] = {}
        gauges: dict[str, list[Any]] = {}
        self._collect_http(counters, histograms)
        self._collect_listeners(counters, gauges)
        self._collect_upstreams(counters, histograms, gauges)
        for family, series in self._counters.items():
            for labels, amount in series.items():
                counters.setdefault(family, []).append([list(labels), amount])
            series.clear()
        for family, series in self._gauges.items():
            gauges[family] = [[list(labels), value] for labels, value in series.items()]
        self._gauges.clear()
        self._forget_left()
        return {"counters": counters, "histograms": histograms, "gauges": gauges}

    def _new_http(self, method: str, status: int, upstream: str) -> HttpSeries:
        key = (fold_method(method), status if 100 <= status <= 599 else 0, upstream)
        if key not in self._http and len(self._http) >= self._max_series:
            key = (OVERFLOW, 0, OVERFLOW)
        series = self._http.get(key)
        if series is None:
            latency = self._latency.setdefault((key[0], key[2]), Histogram(REQUEST_BUCKETS))
            series = self._http[key] = HttpSeries(latency)
        return series

    def _new_family(self, name: str, labels: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        family = FAMILIES.get(name)
        if family is None or family.kind != "counter" or len(family.labels) != len(labels):
            raise ValueError(f"{name} is not a counter with {len(labels)} labels")
        return self._counters.setdefault(name, {})

    def _collect_http(self, counters: dict[str, list[Any]], histograms: dict[str, list[Any]]) -> None:
        requests = []
        for (method, status, upstream), series in self._http.items():
            if series.count:
                word = OVERFLOW if method == OVERFLOW else str(status) if status else OTHER
                requests.append([[method, word, upstream], series.count])
                series.count = 0
        if requests:
            counters[Metric.HTTP_REQUESTS] = requests
        _collect_histograms(Metric.HTTP_LATENCY, self._latency, histograms)
        _collect_histograms(Metric.TCP_DURATION, self._tcp_duration, histograms)

    def _collect_listeners(self, counters: dict[str, list[Any]], gauges: dict[str, list[Any]]) -> None:
        for name, listener in self._listeners.items():
            for family, attribute in _LISTENER_COUNTERS:
                amount = getattr(listener, attribute)
                if amount:
                    counters.setdefault(family, []).append([[name], amount])
                    setattr(listener, attribute, 0)
            for family, attribute in _LISTENER_GAUGES:
                gauges.setdefault(family, []).append([[name], getattr(listener, attribute)])

    def _collect_upstreams(
        self, counters: dict[str, list[Any]], histograms: dict[str, list[Any]], gauges: dict[str, list[Any]]
    ) -> None:
        for (service, name), upstream in self._upstreams.items():
            labels = [service, name]
            if upstream.pool_reused:
                counters.setdefault(Metric.UPSTREAM_POOL_REUSED, []).append([labels, upstream.pool_reused])
                upstream.pool_reused = 0
            for result, amount in upstream.connects.items():
                counters.setdefault(Metric.UPSTREAM_CONNECTS, []).append([[*labels, result], amount])
            upstream.connects.clear()
            for family, attribute in _UPSTREAM_GAUGES:
                gauges.setdefault(family, []).append([labels, getattr(upstream, attribute)])
        times = {pair: upstream.connect_time for pair, upstream in self._upstreams.items()}
        _collect_histograms(Metric.UPSTREAM_CONNECT_TIME, times, histograms)

    def _forget_left(self) -> None:
        """Let go of series of endpoints that left, which this collection has just reported for the last time."""
        if self._retained is None:
            return
        names = {name for _, name in self._retained} | {NO_UPSTREAM, OVERFLOW}
        for pair in [pair for pair in self._upstreams if pair not in self._retained]:
            del self._upstreams[pair]
        for key in [key for key in self._http if key[2] not in names]:
            del self._http[key]
        for table in (self._latency, self._tcp_duration):
            for labels in [labels for labels in table if labels[1] not in names]:
                del table[labels]
        self._retained = None


def fold_method(method: str) -> str:
    """``method`` when it is one of the methods of HTTP (they are case-sensitive), else ``OTHER``."""
    return method if method in METHODS else OTHER


def _collect_histograms(family: str, table: dict[tuple[str, str], Histogram], histograms: dict[str, list[Any]]) -> None:
    for labels, histogram in table.items():
        taken = histogram.take()
        if taken is not None:
            histograms.setdefault(family, []).append([list(labels), *taken])
