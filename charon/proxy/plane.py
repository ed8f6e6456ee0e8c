"""What all listeners of one worker share: the services, the counters, the logs, and whether it is draining."""

from __future__ import annotations

from time import monotonic

from charon.base.names import PASSTHROUGH, Event, Metric
from charon.config.snapshot import ListenerSpec, Snapshot
from charon.net.tls import Contexts, ServerTls
from charon.proxy.passthrough import Passthrough
from charon.proxy.service import Service, Services
from charon.proxy.sharing import Sharing
from charon.telemetry.access_log import AccessLog
from charon.telemetry.events import EventLog
from charon.telemetry.metrics import WorkerMetrics


class DataPlane:
    """One worker's view of the appliance. ``instance`` tells this Charon from others in ``Via``; ``own_ports`` are
    those that it listens on."""

    def __init__(self, events: EventLog, access_log: AccessLog, metrics: WorkerMetrics, sharing: Sharing) -> None:
        self.events = events
        self.access_log = access_log
        self.metrics = metrics
        self.sharing = sharing
        self.services = Services(sharing)
        self.contexts = Contexts()
        self.passthrough = Passthrough(sharing)
        self.own_ports: frozenset[int] = frozenset()
        self.instance = b""
        self.server_tls: dict[str, ServerTls] = {}
        self.draining = False
        self._told: dict[str, float] = {}

    def apply(self, snapshot: Snapshot) -> None:
        """Follow ``snapshot`` as far as it concerns all listeners.

        Raises ValueError, and changes nothing, when some TLS material cannot be used.
        """
        listeners = {spec.name: (spec.tls, _alpn(spec)) for spec in snapshot.listeners if spec.tls is not None}
        clients = {spec.tls for spec in snapshot.services.values() if spec.tls is not None}
        server_tls = self.contexts.servers(listeners, snapshot.materials)
        client_tls = self.contexts.clients(clients, snapshot.materials)
        self.server_tls = server_tls
        self.instance = snapshot.instance_id.encode("ascii")
        self.services.apply(snapshot.services, client_tls)
        self.services.index(wanted=any(spec.direction == "outbound" for spec in snapshot.listeners))
        kept = [(e.service, e.name) for e in self.services.endpoints()]
        self.metrics.retain_upstreams([*kept, (PASSTHROUGH, PASSTHROUGH)])

    def service(self, name: str) -> Service | None:
        return self.services.get(name)

    def rate_limited(self, limit: str, client: str, now: float) -> None:
        """Something was over ``limit``: count it, and say so at most once a second for each limit."""
        self.metrics.count(Metric.HTTP_RATE_LIMITED, (limit,))
        if self.may_tell(limit, now):
            self.events.warning(Event.RATE_LIMITED, limit=limit, client=client)

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

    def gauges(self) -> None:
        """Bring the gauges of endpoints up to date, before the counters are collected."""
        for endpoint in self.services.endpoints():
            endpoint.metrics.in_flight = endpoint.in_flight
            endpoint.metrics.pool_idle = len(endpoint.pool)
        destinations = list(self.passthrough.endpoints())
        if destinations:  # all of them have the same numbers
            destinations[0].metrics.in_flight = sum(endpoint.in_flight for endpoint in destinations)
            destinations[0].metrics.pool_idle = sum(len(endpoint.pool) for endpoint in destinations)


def _alpn(spec: ListenerSpec) -> tuple[str, ...]:
    """What a listener says it speaks inside TLS."""
    return ("http/1.1",) if spec.protocol == "http" else ()
