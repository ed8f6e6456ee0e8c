"""One endpoint as this worker sees it: its idle connections and what is under way to it."""

from __future__ import annotations

from time import monotonic

from charon.base.errors import ExchangeFailed
from charon.config.snapshot import EndpointSpec
from charon.net.dial import dial
from charon.net.pool import Pool
from charon.net.stream import Stream
from charon.telemetry.metrics import UpstreamMetrics


class Endpoint:
    """An address of a service. Lives as long as the snapshot names it, so pools survive every change that keeps it."""

    __slots__ = ("in_flight", "metrics", "name", "pool", "service", "spec")

    def __init__(self, service: str, spec: EndpointSpec, metrics: UpstreamMetrics) -> None:
        self.metrics = metrics
        self.service = service
        self.spec = spec
        self.name = spec.name
        self.pool = Pool()
        self.in_flight = 0

    def __repr__(self) -> str:
        return f"<Endpoint {self.service}/{self.name} in_flight={self.in_flight} idle={len(self.pool)}>"

    def available(self) -> bool:
        """The one gate: whether a request may go here now."""
        return not self.pool.closed

    def dial(self, timeout: float) -> Stream:
        """A new connection, within ``timeout`` seconds. Raises ExchangeFailed."""
        start = monotonic()
        try:
            stream = dial(self.spec.candidates, timeout)
        except ExchangeFailed as failure:
            self.metrics.connect_failed(failure.reason.word)
            raise
        self.metrics.connected(monotonic() - start)
        return stream

    def leave(self) -> None:
        """The snapshot no longer names this endpoint: what is under way finishes, nothing new begins."""
        self.pool.close()
