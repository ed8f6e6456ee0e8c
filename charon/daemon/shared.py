"""The supervisor's side of the shared table: who has which row, what the probes found, and what a dead worker left."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import monotonic

from charon.base.names import Event, Metric
from charon.config.snapshot import EndpointSpec, ServiceSpec, TlsMaterial
from charon.daemon.health_checker import HealthChecker
from charon.shared.rows import NO_ROW, Rows
from charon.shared.state import EndpointState
from charon.shared.table import ROWS, SERVICE_ROWS, SharedTable
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals

Series = dict[tuple[str, ...], float]

_STATES = {"closed": 0.0, "open": 1.0, "half_open": 2.0}


class Shared:
    """The table, its rows and the health checks that write to it."""

    def __init__(self, slots: int, totals: Totals, events: EventLog) -> None:
        self.table = SharedTable.create(slots)
        self.secret = secrets.token_bytes(32)
        self._totals = totals
        self._events = events
        self._rows: Rows[tuple[str, str]] = Rows(ROWS)
        self._service_rows: Rows[str] = Rows(SERVICE_ROWS)
        self._states: dict[tuple[str, str], EndpointState] = {}
        self._services: dict[str, ServiceSpec] = {}
        self.checker = HealthChecker(self._probed)

    def assign(
        self, services: Mapping[str, ServiceSpec], materials: Mapping[str, TlsMaterial]
    ) -> dict[str, ServiceSpec]:
        """``services`` with their rows, which they keep for as long as they are there; their probes follow, under TLS
        with ``materials`` where traffic is."""
        keys = {(service.name, endpoint.name) for service in services.values() for endpoint in service.endpoints}
        self._rows.retain(keys)
        self._service_rows.retain(services.keys())
        for key in [key for key in self._states if key not in keys]:
            del self._states[key]
        self._services = {name: self._with_rows(service) for name, service in services.items()}
        self.checker.watch(self._services, materials)
        return self._services

    def _with_rows(self, service: ServiceSpec) -> ServiceSpec:
        row, fresh = self._service_rows.assign(service.name)
        if fresh:
            self.table.clear_service_row(row)
        endpoints = tuple(self._with_row(service, endpoint) for endpoint in service.endpoints)
        return replace(service, row=row, endpoints=endpoints)

    def _with_row(self, service: ServiceSpec, endpoint: EndpointSpec) -> EndpointSpec:
        key = (service.name, endpoint.name)
        row, fresh = self._rows.assign(key)
        if fresh:
            self.table.clear_row(row)
        if row != NO_ROW:
            state = self._states.get(key)
            if state is None:
                self._states[key] = EndpointState(
                    self.table, row, 0, service.breaker, service.passive, lambda change: None
                )
                before = self._services.get(service.name)
                if before is not None and before.endpoints:
                    self._states[key].joined(monotonic())
            else:
                state.follow(service.breaker, service.passive)
            if service.health_check is None and self._states[key].is_down():
                self._states[key].set_down(False, monotonic())  # nobody would ever take it back
        return replace(endpoint, row=row)

    def _probed(self, service: str, endpoint: EndpointSpec, healthy: bool, why: str) -> None:
        state = self._states.get((service, endpoint.name))
        if state is None:
            return
        was_down = state.is_down()
        state.set_down(not healthy, monotonic())
        if was_down == healthy:
            say = self._events.info if healthy else self._events.warning
            say(Event.HEALTH_CHANGE, service=service, upstream=endpoint.name, healthy=healthy, by="probe", why=why)

    def worker_gone(self, slot: int) -> None:
        """A worker has ended, however: its trials are free again, and nothing is in flight in it."""
        for state in self._states.values():
            state.release_holder(slot + 1)
        self.table.clear_slot(slot, [row for _, row in self._rows.items()])

    def gauges(self) -> None:
        """Bring the gauges of endpoints and services up to date."""
        now = monotonic()
        health: Series = {
            (service, upstream): 1.0 if healthy else 0.0
            for service, upstream, _ in self._each()
            if (healthy := self.checker.healthy(service, upstream)) is not None
        }
        self._totals.set_gauges(Metric.UPSTREAM_HEALTH, health)
        breakers: Series = {
            (service, upstream): _STATES[state.breaker_state()] for service, upstream, state in self._each()
        }
        self._totals.set_gauges(Metric.BREAKER_STATE, breakers)
        ejected: Series = {
            (service, upstream): float(state.is_ejected(now)) for service, upstream, state in self._each()
        }
        self._totals.set_gauges(Metric.UPSTREAM_EJECTED, ejected)
        panic: Series = {(name,): float(self._all_ejected(name, now)) for name in self._services}
        self._totals.set_gauges(Metric.SERVICE_PANIC, panic)

    def status(self) -> dict[str, list[dict[str, object]]]:
        """Every service's endpoints with what is known of them, as plain values."""
        now = monotonic()
        found: dict[str, list[dict[str, object]]] = {name: [] for name in self._services}
        for service, upstream, state in self._each():
            found[service].append(
                {
                    "endpoint": upstream,
                    "healthy": self.checker.healthy(service, upstream),
                    "breaker": state.breaker_state(),
                    "ejected": state.is_ejected(now),
                }
            )
        return found

    def stop(self) -> None:
        """End all probing."""
        self.checker.stop()

    def _each(self) -> Iterator[tuple[str, str, EndpointState]]:
        for (service, upstream), state in self._states.items():
            yield service, upstream, state

    def _all_ejected(self, service: str, now: float) -> bool:
        endpoints = self._services[service].endpoints
        states = [self._states.get((service, endpoint.name)) for endpoint in endpoints]
        return bool(states) and all(state is not None and state.is_ejected(now) for state in states)
