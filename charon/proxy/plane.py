"""What all listeners of one worker share: the services, the counters, the logs, and whether it is draining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from charon.base.names import Event, Metric
from charon.config.snapshot import ServiceSpec, Snapshot
from charon.proxy.service import Service, Services
from charon.proxy.sharing import Sharing
from charon.telemetry.access_log import AccessLog
from charon.telemetry.events import EventLog
from charon.telemetry.metrics import WorkerMetrics
from charon.telemetry.tracing import Tracer


class DataPlane:
    """One worker's view of the appliance. ``instance`` tells this Charon from others in ``Via``. ``tracer`` is None
    where tracing is off."""

    def __init__(self, events: EventLog, access_log: AccessLog, metrics: WorkerMetrics, sharing: Sharing) -> None:
        self.events = events
        self.access_log = access_log
        self.metrics = metrics
        self.sharing = sharing
        self.services = Services(sharing)
        self.instance = b""
        self.draining = False
        self.tracer: Tracer | None = None
        self._told: dict[str, float] = {}

    def apply(self, snapshot: Snapshot, own: Mapping[str, ServiceSpec]) -> None:
        """Follow ``snapshot`` as far as it concerns all listeners; ``own`` are services beside it."""
        self.instance = snapshot.instance_id.encode("ascii")
        self.services.apply(snapshot.services, own)
        self.metrics.retain_upstreams((e.service, e.name) for e in self.services.endpoints())

    def service(self, name: str) -> Service | None:
        return self.services.get(name)

    def rate_limited(self, limit: str, client: str, now: float, **ids: Any) -> None:
        """Something was over ``limit``: count it, and say so at most once a second for each limit. ``ids`` name the
        trace of the request, where there is one."""
        self.metrics.count(Metric.HTTP_RATE_LIMITED, (limit,))
        if now - self._told.get(limit, 0.0) >= 1.0:
            self._told[limit] = now
            self.events.warning(Event.RATE_LIMITED, limit=limit, client=client, **ids)

    def gauges(self) -> None:
        """Bring the gauges of endpoints up to date, before the counters are collected."""
        for endpoint in self.services.endpoints():
            endpoint.metrics.in_flight = endpoint.in_flight
            endpoint.metrics.pool_idle = len(endpoint.pool)
