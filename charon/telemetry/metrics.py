"""What a worker counts: words of its ledger, which outlive it; and gauges, which are reported as they are.

Hot code holds a :class:`ListenerMetrics` or :class:`UpstreamMetrics`; requests go through
:meth:`WorkerMetrics.http_request`. Labels never hold what a peer chose freely: methods are folded, statuses bounded,
and each family holds a bounded number of series, with one named ``overflow`` for the rest. Series of endpoints,
services and listeners that left go with them; what is still counted for them is counted nowhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from charon.base.clock import SystemClock
from charon.base.names import Metric
from charon.telemetry.families import CONNECTION_BUCKETS, FAMILIES, MAX_SERIES, REQUEST_BUCKETS, Current
from charon.telemetry.ledger import NOWHERE, Ledger

Report = dict[str, dict[str, list[Any]]]
"""``gauges``: name to ``[labels, value now]``; ``exemplars``: name to ``[labels, bucket, trace id, value, time]``.
Names are :class:`charon.base.names.Metric`, labels lists of strings, times Unix seconds."""

Labels = tuple[str, ...]

OTHER: Final = "OTHER"
OK: Final = "ok"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})

_REQUEST_SUM: Final = len(REQUEST_BUCKETS) + 1
_CONNECTION_SUM: Final = len(CONNECTION_BUCKETS) + 1


class ListenerMetrics:
    """Numbers of one listener. ``connections`` and ``in_flight`` are gauges: set them; the rest has methods."""

    __slots__ = (
        "_accepted",
        "_errors",
        "_failed",
        "_received",
        "_requests",
        "_sent",
        "_words",
        "connections",
        "in_flight",
    )

    def __init__(self, words: memoryview[float], at: Callable[[str], int]) -> None:
        self._words = words
        self.connections = 0
        self.in_flight = 0
        self._accepted = at(Metric.CONNECTIONS_TOTAL)
        self._errors = at(Metric.ACCEPT_ERRORS)
        self._received = at(Metric.RECEIVED_BYTES)
        self._sent = at(Metric.SENT_BYTES)
        self._requests = at(Metric.LISTENER_REQUESTS)
        self._failed = at(Metric.LISTENER_ERRORS)

    def accepted(self) -> None:
        """A connection was accepted."""
        self._words[self._accepted] += 1.0

    def accept_failed(self) -> None:
        """A connection could not be accepted."""
        self._words[self._errors] += 1.0

    def moved(self, received: int, sent: int) -> None:
        """So many bytes came from clients and went to them."""
        words = self._words
        words[self._received] += received
        words[self._sent] += sent

    def answered(self, failed: bool) -> None:
        """A request has come to its end; ``failed``: with an answer of 500 or above, or broken off."""
        self._words[self._requests] += 1.0
        if failed:
            self._words[self._failed] += 1.0

    def leave(self) -> None:
        """The listener is gone: nothing is counted for it any more."""
        self._accepted = self._errors = self._received = self._sent = NOWHERE
        self._requests = self._failed = NOWHERE


class UpstreamMetrics:
    """Numbers of one endpoint of one service. Set ``in_flight`` and ``pool_idle``; the rest has methods."""

    __slots__ = ("_at", "_connect_time", "_connects", "_reused", "_words", "in_flight", "pool_idle")

    def __init__(self, words: memoryview[float], at: Callable[..., int]) -> None:
        self._words = words
        self._at = at
        self.in_flight = 0
        self.pool_idle = 0
        self._reused = 0
        self._connect_time = 0
        self._connects: dict[str, int] = {}

    def reused(self) -> None:
        """A request goes over a connection that was already open."""
        if not self._reused:
            self._reused = self._at(Metric.UPSTREAM_POOL_REUSED)
        self._words[self._reused] += 1.0

    def connected(self, seconds: float) -> None:
        """A connection was established after ``seconds``."""
        self._count_connect(OK)
        if not self._connect_time:
            self._connect_time = self._at(Metric.UPSTREAM_CONNECT_TIME)
        _observe(self._words, self._connect_time, REQUEST_BUCKETS, _REQUEST_SUM, seconds)

    def connect_failed(self, reason: str) -> None:
        """A connection could not be established; ``reason`` is a reason word."""
        self._count_connect(reason)

    def _count_connect(self, result: str) -> None:
        at = self._connects.get(result)
        if at is None:
            at = self._connects[result] = self._at(Metric.UPSTREAM_CONNECTS, result)
        self._words[at] += 1.0

    def leave(self) -> None:
        """The endpoint is gone: nothing is counted for it any more."""
        self._at = _nowhere
        self._reused = self._connect_time = NOWHERE
        self._connects.clear()


_LISTENER_GAUGES: Final = ((Metric.CONNECTIONS, "connections"), (Metric.HTTP_IN_FLIGHT, "in_flight"))
_UPSTREAM_GAUGES: Final = ((Metric.UPSTREAM_REQUESTS_IN_FLIGHT, "in_flight"), (Metric.UPSTREAM_POOL_IDLE, "pool_idle"))


class WorkerMetrics:
    """All that one worker counts, in ``ledger``. ``wall`` gives Unix seconds."""

    def __init__(
        self, ledger: Ledger, max_series: int = MAX_SERIES, *, wall: Callable[[], float] | None = None
    ) -> None:
        self._ledger = ledger
        self._words = ledger.words
        self._max_series = max_series
        self._wall = wall or SystemClock().wall
        self._series: dict[str, dict[Labels, int]] = {
            family.name: {} for family in FAMILIES.values() if family.kind != "gauge"
        }
        self._http: dict[tuple[str, int, str], tuple[int, int]] = {}
        self._listeners: dict[str, ListenerMetrics] = {}
        self._upstreams: dict[tuple[str, str], UpstreamMetrics] = {}
        self._exemplars: dict[tuple[str, str, int], tuple[str, float, float]] = {}
        self._gauges: dict[str, dict[Labels, float]] = {}
        self._totals: dict[tuple[str, Labels], float] = {}
        self._current: Current | None = None

    def listener(self, name: str) -> ListenerMetrics:
        """The numbers of a listener, to be held by it."""
        found = self._listeners.get(name)
        if found is None:
            found = ListenerMetrics(self._words, lambda family: self._at(family, (name,)))
            self._listeners[name] = found
        return found

    def upstream(self, service: str, name: str) -> UpstreamMetrics:
        """The numbers of an endpoint, to be held by it."""
        found = self._upstreams.get((service, name))
        if found is None:
            if self._current is not None:
                self._current.add(service, name)
            found = UpstreamMetrics(self._words, lambda family, *more: self._at(family, (service, name, *more)))
            self._upstreams[service, name] = found
        return found

    def http_request(
        self, method: str, status: int, upstream: str, seconds: float, trace_id: str | None = None
    ) -> None:
        """One request was answered. ``upstream`` is an endpoint's name, or ``NO_UPSTREAM``; ``trace_id`` is given
        when its trace is being recorded: it becomes the example of its bucket."""
        count, latency = self._http.get((method, status, upstream)) or self._new_http(method, status, upstream)
        bucket = bisect_left(REQUEST_BUCKETS, seconds)
        words = self._words
        words[count] += 1.0
        words[latency + bucket] += 1.0
        words[latency + _REQUEST_SUM] += seconds
        if trace_id is not None and latency != NOWHERE:
            self._exemplars[fold_method(method), upstream, bucket] = trace_id, seconds, self._wall()

    def tcp_connection(self, listener: str, upstream: str, outcome: str, seconds: float) -> None:
        """One relayed connection ended. ``outcome`` is ``OK`` or a reason word."""
        self.count(Metric.TCP_CONNECTIONS, (listener, upstream, outcome))
        at = self._at(Metric.TCP_DURATION, (listener, upstream))
        _observe(self._words, at, CONNECTION_BUCKETS, _CONNECTION_SUM, seconds)

    def retry(self, method: str) -> None:
        """A request is tried once more."""
        self.count(Metric.HTTP_RETRIES, (fold_method(method),))

    def count(self, family: str, labels: Labels = (), amount: float = 1) -> None:
        """Add to any other counter; ``labels`` in the order of its family. ValueError when it is not such a counter."""
        found = FAMILIES.get(family)
        if found is None or found.kind != "counter" or len(found.labels) != len(labels):
            raise ValueError(f"{family} is not a counter with {len(labels)} labels")
        self._words[self._at(family, labels)] += amount

    def gauge(self, family: str, labels: Labels, value: float) -> None:
        """Set any other gauge, for the next collection only: what is not set again is gone. ValueError as above."""
        known = FAMILIES.get(family)
        if known is None or known.kind != "gauge" or len(known.labels) != len(labels):
            raise ValueError(f"{family} is not a gauge with {len(labels)} labels")
        series = self._gauges.setdefault(family, {})
        if labels in series or len(series) < self._max_series:
            series[labels] = value

    def count_up_to(self, family: str, labels: Labels, total: float) -> None:
        """Add to a counter what ``total``, which is kept elsewhere and only grows, grew by since the last call."""
        grown = total - self._totals.get((family, labels), 0)
        if grown > 0:
            self.count(family, labels, grown)
            self._totals[family, labels] = total

    def retain(self, endpoints: Collection[tuple[str, str]], listeners: Iterable[str]) -> None:
        """Of what there was, these (service, endpoint) pairs are left, and these listeners. The series of others end.

        Endpoints that :meth:`upstream` is asked for later are new ones.
        """
        current = self._current = Current(endpoints, (service for service, _ in endpoints), listeners)
        self._http.clear()
        for pair in [pair for pair in self._upstreams if pair not in current.endpoints]:
            self._upstreams.pop(pair).leave()
        for name in [name for name in self._listeners if name not in current.listeners]:
            self._listeners.pop(name).leave()
        for name, table in self._series.items():
            for labels in [labels for labels in table if not current.holds(FAMILIES[name], labels)]:
                self._ledger.retire(table.pop(labels))

    def collect(self) -> Report:
        """The gauges as they are now, and the examples since the last call; plain values that JSON can carry."""
        gauges: dict[str, list[Any]] = {}
        for family, series in self._gauges.items():
            gauges[family] = [[list(labels), value] for labels, value in series.items()]
        self._gauges.clear()
        for name, listener in self._listeners.items():
            for family, attribute in _LISTENER_GAUGES:
                gauges.setdefault(family, []).append([[name], getattr(listener, attribute)])
        for pair, upstream in self._upstreams.items():
            for family, attribute in _UPSTREAM_GAUGES:
                gauges.setdefault(family, []).append([list(pair), getattr(upstream, attribute)])
        report = {"gauges": gauges}
        if self._exemplars:
            found = [[[method, name], bucket, *what] for (method, name, bucket), what in self._exemplars.items()]
            report["exemplars"] = {Metric.HTTP_LATENCY: found}
            self._exemplars.clear()
        return report

    def _at(self, name: str, labels: Labels) -> int:
        """Where a series' values begin."""
        table = self._series[name]
        at = table.get(labels)
        if at is None:
            family = FAMILIES[name]
            if self._current is not None and not self._current.holds(family, labels):
                return NOWHERE
            at = self._ledger.open(family, labels) if len(table) < self._max_series else None
            if at is None:
                return self._ledger.overflow(family)
            table[labels] = at
        return at

    def _new_http(self, method: str, status: int, upstream: str) -> tuple[int, int]:
        folded = fold_method(method)
        word = str(status) if 100 <= status <= 599 else OTHER
        requests = (folded, word, upstream)
        found = self._at(Metric.HTTP_REQUESTS, requests), self._at(Metric.HTTP_LATENCY, (folded, upstream))
        if folded == method and word != OTHER and requests in self._series[Metric.HTTP_REQUESTS]:
            self._http[method, status, upstream] = found
        return found


def _observe(words: memoryview[float], at: int, buckets: tuple[float, ...], total: int, seconds: float) -> None:
    words[at + bisect_left(buckets, seconds)] += 1.0
    words[at + total] += seconds


def _nowhere(family: str, *more: str) -> int:
    return NOWHERE


def fold_method(method: str) -> str:
    """``method`` when it is one of the methods of HTTP (they are case-sensitive), else ``OTHER``."""
    return method if method in METHODS else OTHER
