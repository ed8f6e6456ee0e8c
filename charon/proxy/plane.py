"""What all listeners of one worker share: the services, the counters, the logs, and whether it is draining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from charon.base.names import PASSTHROUGH, Event, Metric
from charon.config.snapshot import ListenerSpec, ServiceSpec, Snapshot
from charon.net.tls import Contexts, ServerTls
from charon.proxy.address_index import AddressIndex
from charon.proxy.guard import CAUSES, Guard
from charon.proxy.passthrough import Passthrough
from charon.proxy.service import Service, Services
from charon.proxy.sharing import Sharing
from charon.telemetry.access_log import AccessLog
from charon.telemetry.events import EventLog
from charon.telemetry.metrics import WorkerMetrics
from charon.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from charon.proxy.server import ProxyServer


class DataPlane:
    """One worker's view of the appliance. ``instance`` tells this Charon from others in ``Via``; ``own_ports`` are
    those that it listens on; ``tracer`` is None where tracing is off."""

    def __init__(
        self, events: EventLog, access_log: AccessLog, metrics: WorkerMetrics, sharing: Sharing, guard: Guard
    ) -> None:
        self.events = events
        self.access_log = access_log
        self.metrics = metrics
        self.sharing = sharing
        self.guard = guard
        self.contexts = Contexts()
        self.services = Services(sharing, self.contexts)
        self.passthrough = Passthrough(sharing)
        self.addresses = AddressIndex()
        self.own_ports: frozenset[int] = frozenset()
        self.instance = b""
        self.draining = False
        self.tracer: Tracer | None = None
        self._told: dict[str, float] = {}

    def apply(self, snapshot: Snapshot, own: Mapping[str, ServiceSpec]) -> None:
        """Follow ``snapshot`` as far as it concerns all listeners; ``own`` are services beside it.

        Raises ValueError, and changes nothing, when some TLS material cannot be used.
        """
        self.contexts.use(snapshot.materials)
        self.instance = snapshot.instance_id.encode("ascii")
        self.services.apply(snapshot.services, own)
        self.addresses.apply(snapshot.services if any(s.direction == "outbound" for s in snapshot.listeners) else {})
        endpoints = [(endpoint.service, endpoint.name) for endpoint in self.services.endpoints()]
        endpoints.append((PASSTHROUGH, PASSTHROUGH))
        self.metrics.retain(endpoints, [listener.name for listener in snapshot.listeners])

    def service(self, name: str) -> Service | None:
        return self.services.get(name)

    def rate_limited(self, limit: str, client: str, now: float, **ids: Any) -> None:
        """Something was over ``limit``: count it, and say so at most once a second for each limit. ``ids`` name the
        request and its trace, where they have names."""
        self.metrics.count(Metric.HTTP_RATE_LIMITED, (limit,))
        if self.may_tell(limit, now):
            self.events.warning(Event.RATE_LIMITED, limit=limit, client=client, **ids)

    def server_tls(self, spec: ListenerSpec) -> ServerTls | None:
        """TLS of a listener: the same object for as long as neither its spec nor its material changes."""
        if spec.tls is None:
            return None
        return self.contexts.server(spec.tls, ("http/1.1",) if spec.protocol == "http" else ())

    def handshake(self, listener: str, result: str) -> None:
        """A client's TLS handshake has come to an end."""
        self.metrics.count(Metric.TLS_HANDSHAKES, (listener, result))

    def handshake_failed(self, listener: str, reason: str, client: str, detail: str) -> None:
        """One that failed: counted, and told at most once a second for each listener and reason."""
        self.handshake(listener, reason)
        if self.may_tell(f"tls {listener} {reason}", monotonic()):
            self.events.warning(
                Event.TLS_HANDSHAKE_FAILED, listener=listener, reason=reason, client=client, error=detail
            )

    def may_tell(self, what: str, now: float) -> bool:
        """Whether a second has gone by since it was last told."""
        if now - self._told.get(what, 0.0) < 1.0:
            return False
        self._told[what] = now
        return True

    def state(self, servers: Iterable[ProxyServer]) -> dict[str, Any]:
        """How this worker is, as plain values: ``connections`` that are open, those of them that are to end
        (``draining``), what there is too much of (``overloaded``) and for want of what accepting pauses (``paused``).
        """
        return {
            "connections": sum(len(server.connections) for server in servers),
            "draining": sum(len(server.connections) for server in servers if server.draining),
            "overloaded": self.guard.causes,
            "paused": self.guard.capacity.paused,
        }

    def gauges(self, servers: Iterable[ProxyServer]) -> None:
        """Bring the gauges up to date, and what the guard counts, before they are collected."""
        self.guard.report()
        gauge = self.metrics.gauge
        gauge(Metric.CONNECTIONS_DRAINING, (), sum(len(s.connections) for s in servers if s.draining))
        gauge(Metric.ACCEPTING_PAUSED, (), float(self.guard.capacity.paused is not None))
        for service in self.services:
            if service.concurrency is not None:
                # All workers see the one limit, and what they report is added up.
                gauge(Metric.CONCURRENCY_LIMIT, (service.name,), service.concurrency.limit / self.sharing.slots)
        for cause in CAUSES:
            gauge(Metric.OVERLOADED, (cause,), float(cause in self.guard.causes))
        for endpoint in self.services.endpoints():
            endpoint.metrics.in_flight = endpoint.in_flight
            endpoint.metrics.pool_idle = len(endpoint.pool)
        destinations = list(self.passthrough.endpoints())
        if destinations:  # all of them have the same numbers
            destinations[0].metrics.in_flight = sum(endpoint.in_flight for endpoint in destinations)
            destinations[0].metrics.pool_idle = sum(len(endpoint.pool) for endpoint in destinations)
