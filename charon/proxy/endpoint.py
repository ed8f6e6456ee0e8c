"""One endpoint as this worker sees it: its idle connections, what is under way to it, and its shared state."""

from __future__ import annotations

from time import monotonic

from charon.base.errors import ExchangeFailed
from charon.config.snapshot import EndpointSpec
from charon.net.dial import Watch, dial
from charon.net.pool import Pool
from charon.net.stream import Stream
from charon.net.tls import ClientTls, EndpointTls
from charon.policy.balance import observe_latency, slow_start_factor
from charon.policy.breaker import Admission
from charon.shared.state import EndpointState
from charon.shared.table import Lock
from charon.telemetry.metrics import UpstreamMetrics

_LATENCY_MEMORY = 10.0
"""Seconds after which a slow answer has lost 63 % of its say (peak EWMA)."""


class InFlight:
    """Requests in flight to one endpoint in all workers: a word of each, of which this one writes its own."""

    __slots__ = ("_cells", "_lock", "_own", "_words")

    def __init__(self, words: memoryview[float], cells: range, slot: int, lock: Lock) -> None:
        self._words = words
        self._cells = cells
        self._own = cells[slot]
        self._lock = lock

    def enter(self, limit: int) -> bool:
        """Count one more, unless there are ``limit``."""
        words = self._words
        with self._lock:
            if sum(words[cell] for cell in self._cells) >= limit:
                return False
            words[self._own] += 1.0
        return True

    def leave(self) -> None:
        """Count one less; only this process writes the word. One that came before there was a limit is not counted."""
        if self._words[self._own] > 0.0:
            self._words[self._own] -= 1.0

    def clear(self) -> None:
        """There is no limit any more: those that have entered will not be seen leaving."""
        self._words[self._own] = 0.0


class Endpoint:
    """An address of a service. Lives as long as the snapshot names it, so pools survive every change that keeps it.

    ``state`` and ``shared_in_flight`` are None for what is carried without shared state.
    """

    __slots__ = (
        "_latency_at",
        "in_flight",
        "latency",
        "metrics",
        "name",
        "pool",
        "proxy_header",
        "service",
        "shared_in_flight",
        "slow_start",
        "spec",
        "state",
        "tls",
    )

    def __init__(self, service: str, spec: EndpointSpec, metrics: UpstreamMetrics) -> None:
        self.metrics = metrics
        self.service = service
        self.spec = spec
        self.name = spec.name
        self.pool = Pool()
        self.proxy_header = 0
        self.in_flight = 0
        self.latency = 0.0
        self.slow_start = 0.0
        self._latency_at = 0.0
        self.tls: EndpointTls | None = None
        self.state: EndpointState | None = None
        self.shared_in_flight: InFlight | None = None

    def __repr__(self) -> str:
        return f"<Endpoint {self.service}/{self.name} in_flight={self.in_flight} idle={len(self.pool)} {self.state}>"

    @property
    def weight(self) -> float:
        """The configured weight."""
        return self.spec.weight

    @property
    def ramp(self) -> float:
        """The part of its weight that the endpoint has so soon after it came back (slow start)."""
        if not self.slow_start or self.state is None:
            return 1.0
        now = monotonic()
        returned = self.state.returned_at(now)
        return slow_start_factor(now - returned, self.slow_start) if returned else 1.0

    def plain(self) -> bool:
        """Whether there is nothing at all to be said against the endpoint: a quick yes, or a perhaps."""
        state = self.state
        return not self.pool.closed and (state is None or not state.row[0])

    def usable(self, now: float, *, ejected_too: bool = False) -> bool:
        """The one gate: whether a request may go here now."""
        state = self.state
        return not self.pool.closed and (state is None or state.usable(now, ejected_too=ejected_too))

    def admit(self, now: float) -> Admission:
        """Let a request pass, as the breaker's trial where it is due for one, or not."""
        return Admission.PASS if self.state is None else self.state.admit(now)

    def dial(self, timeout: float, watch: Watch, hello: bytes = b"", source: str = "") -> Stream:
        """A new connection, within ``timeout`` seconds; the rest as for charon.net.dial. Raises ExchangeFailed."""
        start = monotonic()
        try:
            stream = dial(self.spec.candidates, timeout, watch, self.tls, hello, source)
        except ExchangeFailed as failure:
            self.metrics.connect_failed(failure.reason.word)
            raise
        self.metrics.connected(monotonic() - start)
        return stream

    def observe(self, seconds: float, now: float) -> None:
        """An answer began after ``seconds``: what the ewma balancer goes by."""
        self.latency = observe_latency(self.latency, seconds, now - self._latency_at, _LATENCY_MEMORY)
        self._latency_at = now

    def fade(self, now: float) -> None:
        """Let what is known of its latency grow old: one slow answer must not keep an endpoint away for ever."""
        if self.latency and not self.in_flight:
            self.observe(0.0, now)

    def secure(self, tls: ClientTls | None) -> None:
        """Dial with ``tls`` from now on. The pool goes with the context: what is under way does not come back to it."""
        before = None if self.tls is None else self.tls.shared
        if tls is not before:
            self.tls = None if tls is None else tls.to(self.service, self.spec)
            self._renew_pool()

    def announce(self, version: int) -> None:
        """Begin connections with a PROXY header of ``version`` from now on; 0: without. One that names a client is not
        for another's requests, so none is kept."""
        if version != self.proxy_header:
            self.proxy_header = version
            self._renew_pool()

    def _renew_pool(self) -> None:
        self.pool.close()
        self.pool = Pool(0) if self.proxy_header else Pool()

    def leave(self) -> None:
        """The snapshot no longer names this endpoint: what is under way finishes, nothing new begins."""
        self.pool.close()
