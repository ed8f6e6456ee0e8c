"""What this worker shares with the others: it makes endpoints that know their rows, and tells of their changes once."""

from __future__ import annotations

from charon.base.names import Event, Metric
from charon.config.snapshot import ConcurrencySpec, EndpointSpec, ServiceSpec
from charon.policy.retry import WINDOW_CELLS, Window
from charon.proxy.endpoint import Endpoint, InFlight
from charon.shared.concurrency import ServiceConcurrency
from charon.shared.connections import ClientConnections
from charon.shared.limiter import Buckets
from charon.shared.state import EndpointState
from charon.shared.table import SharedTable
from charon.telemetry.events import EventLog
from charon.telemetry.metrics import WorkerMetrics

_BREAKER_STATES = ("open", "half_open", "closed")


class Sharing:
    """The shared table as the worker in ``slot`` uses it."""

    def __init__(self, table: SharedTable, slot: int, secret: bytes, metrics: WorkerMetrics, events: EventLog) -> None:
        self.slot = slot
        self.slots = table.slots
        self.buckets = Buckets(table, secret)
        self.connections = ClientConnections(table, slot, secret)
        self._table = table
        self._metrics = metrics
        self._events = events

    def endpoint(self, service: str, spec: EndpointSpec, settings: ServiceSpec) -> Endpoint:
        """A new endpoint of ``service``, with its shared state where it has a row."""
        endpoint = Endpoint(service, spec, self._metrics.upstream(service, spec.name))
        if spec.row >= 0:
            table = self._table
            endpoint.state = EndpointState(
                table, spec.row, self.slot + 1, settings.breaker, settings.passive, self._teller(service, spec.name)
            )
            cells = table.in_flight_cells(spec.row)
            endpoint.shared_in_flight = InFlight(table.words, cells, self.slot, table.endpoints)
        return endpoint

    def windows(self, service_row: int) -> list[Window] | None:
        """The retry windows of a service, one for each worker slot; None where it has no row."""
        if service_row < 0:
            return None
        table = self._table
        firsts = [table.budget_cells(service_row, slot) for slot in range(table.slots)]
        return [Window(table.words[first : first + WINDOW_CELLS]) for first in firsts]

    def concurrency(self, service_row: int, settings: ConcurrencySpec) -> ServiceConcurrency:
        """The number of requests at the same time that a service is given."""
        return ServiceConcurrency(self._table, service_row, self.slot, settings)

    def _teller(self, service: str, upstream: str) -> _Teller:
        return _Teller(service, upstream, self._metrics, self._events)


class _Teller:
    """Counts and logs the changes of one endpoint's state that this worker has made."""

    __slots__ = ("_events", "_metrics", "_service", "_upstream")

    def __init__(self, service: str, upstream: str, metrics: WorkerMetrics, events: EventLog) -> None:
        self._service = service
        self._upstream = upstream
        self._metrics = metrics
        self._events = events

    def __call__(self, change: str) -> None:
        if change in _BREAKER_STATES:
            self._metrics.count(Metric.BREAKER_TRANSITIONS, (self._upstream, change))
            say = self._events.info if change == "closed" else self._events.warning
            say(Event.CIRCUIT_BREAKER, service=self._service, upstream=self._upstream, state=change)
        else:
            say = self._events.info if change == "returned" else self._events.warning
            say(
                Event.HEALTH_CHANGE,
                service=self._service,
                upstream=self._upstream,
                healthy=change == "returned",
                by="traffic",
            )
