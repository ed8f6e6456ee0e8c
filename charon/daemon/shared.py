"""The supervisor's side of the shared table: who has which row, what the probes found, and what a dead worker left."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from heapq import nsmallest
from time import monotonic
from typing import Any

from charon.base.names import Event, Metric
from charon.config.settings import Settings, Treat
from charon.config.snapshot import EndpointSpec, ServiceSpec, TlsMaterial
from charon.daemon.health_checker import HealthChecker
from charon.discovery.directory import Found
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
        self._settings: Settings | None = None
        self._found: Found = {}
        self._services: dict[str, ServiceSpec] = {}
        self.checker = HealthChecker(self._probed)

    def assign(self, found: Found, settings: Settings, materials: Mapping[str, TlsMaterial]) -> dict[str, ServiceSpec]:
        """The services that were found, treated as ``settings`` say, with their rows, which they keep for as long as
        they are there; their probes follow, with ``materials`` where traffic is under TLS. What has not changed since
        the last time is the same object again."""
        before = self._services
        again = settings is not self._settings
        changed = [name for name, endpoints in found.items() if again or self._found.get(name) is not endpoints]
        gone = [name for name in before if name not in found]
        for name in gone:
            self._service_rows.release(name)
            self._release(before[name], ())
        for name in changed:
            if name in before:
                self._release(before[name], found[name])
        now = monotonic()
        treat = settings.treating()
        fresh = {name: self._with_rows(name, found[name], treat, now) for name in changed}
        self._services = {name: fresh.get(name) or before[name] for name in found}
        self._settings, self._found = settings, found
        self.checker.watch(fresh.values(), gone, materials)
        return self._services

    def _release(self, service: ServiceSpec, kept: Iterable[EndpointSpec]) -> None:
        names = {endpoint.name for endpoint in kept}
        for endpoint in service.endpoints:
            if endpoint.name not in names:
                self._rows.release((service.name, endpoint.name))

    def _with_rows(self, name: str, endpoints: tuple[EndpointSpec, ...], treat: Treat, now: float) -> ServiceSpec:
        row, used = self._service_rows.assign(name)
        if used:
            self.table.clear_service_row(row)
        rows = [self._row(name, endpoint.name) for endpoint in endpoints]
        known = [endpoint._replace(row=row) for endpoint, row in zip(endpoints, rows, strict=True)]
        service = treat(name, tuple(known), row)
        before = self._services.get(name)
        joins = {e.name for e in known} - {e.name for e in before.endpoints} if before and before.endpoints else ()
        for endpoint in service.endpoints:
            if endpoint.name in joins and endpoint.row != NO_ROW:
                self._state(service, endpoint).joined(now)
            if service.health_check is None and self._is_noted(endpoint):
                state = self._state(service, endpoint)
                if state.is_down():
                    state.set_down(False, now)  # nobody would ever take it back
        return service

    def _row(self, service: str, endpoint: str) -> int:
        row, used = self._rows.assign((service, endpoint))
        if used:
            self.table.clear_row(row)
        return row

    def _state(self, service: ServiceSpec, endpoint: EndpointSpec) -> EndpointState:
        """What is known of an endpoint that has a row."""
        return EndpointState(self.table, endpoint.row, 0, service.breaker, service.passive, _tell_nobody)

    def _is_noted(self, endpoint: EndpointSpec) -> bool:
        """Whether there is anything to say of an endpoint, which is seldom so."""
        return endpoint.row != NO_ROW and bool(self.table.words[self.table.row(endpoint.row)])

    def _noted(self) -> dict[tuple[str, str], EndpointState]:
        """The endpoints of which there is something to say."""
        return {
            (service.name, endpoint.name): self._state(service, endpoint)
            for service in self._services.values()
            for endpoint in service.endpoints
            if self._is_noted(endpoint)
        }

    def _probed(self, name: str, endpoint: EndpointSpec, healthy: bool, why: str) -> None:
        service = self._services.get(name)
        current = next((e for e in service.endpoints if e.name == endpoint.name), None) if service else None
        if service is None or service.health_check is None or current is None or current.row == NO_ROW:
            return  # it left while it was probed, or is probed no more
        state = self._state(service, current)
        was_down = state.is_down()
        state.set_down(not healthy, monotonic())
        if was_down == healthy:
            say = self._events.info if healthy else self._events.warning
            say(Event.HEALTH_CHANGE, service=name, upstream=endpoint.name, healthy=healthy, by="probe", why=why)

    def worker_gone(self, slot: int) -> None:
        """A worker has ended, however: its trials are free again, and nothing is in flight in it."""
        for state in self._noted().values():
            state.release_holder(slot + 1)
        self.table.clear_slot(slot, [row for _, row in self._rows.items()])

    def gauges(self) -> None:
        """Bring the gauges of endpoints and services up to date."""
        now = monotonic()
        noted = self._noted()
        health: Series = {}
        breakers: Series = {}
        ejected: Series = {}
        panic: Series = {}
        for name, service in self._services.items():
            for endpoint in service.endpoints:
                key = (name, endpoint.name)
                healthy = self.checker.healthy(*key)
                if healthy is not None:
                    health[key] = float(healthy)
                if endpoint.row != NO_ROW:
                    state = noted.get(key)
                    breakers[key] = _STATES[state.breaker_state()] if state is not None else 0.0
                    ejected[key] = float(state.is_ejected(now)) if state is not None else 0.0
            states = [noted.get((name, endpoint.name)) for endpoint in service.endpoints]
            panic[name,] = float(bool(states) and all(state and state.is_ejected(now) for state in states))
        self._totals.set_gauges(Metric.UPSTREAM_HEALTH, health)
        self._totals.set_gauges(Metric.BREAKER_STATE, breakers)
        self._totals.set_gauges(Metric.UPSTREAM_EJECTED, ejected)
        self._totals.set_gauges(Metric.SERVICE_PANIC, panic)

    def status(self, limit: int | None, news: Collection[str]) -> dict[str, list[dict[str, Any]]]:
        """Every service's endpoints with what is known of them, as plain values.

        With ``limit`` at most so many services: those in ``news`` (endpoint names) and in trouble first.
        """
        now = monotonic()
        noted = self._noted()
        chosen = self._services if limit is None else self._chosen(limit, news, {name for name, _ in noted})
        return {
            name: [
                {
                    "endpoint": endpoint.name,
                    "healthy": self.checker.healthy(name, endpoint.name),
                    "breaker": state.breaker_state() if state is not None else "closed",
                    "ejected": state is not None and state.is_ejected(now),
                }
                for endpoint, state in ((e, noted.get((name, e.name))) for e in service.endpoints)
            ]
            for name, service in chosen.items()
        }

    def _chosen(self, limit: int, news: Collection[str], troubled: Collection[str]) -> dict[str, ServiceSpec]:
        if len(self._services) <= limit:
            return self._services

        def rank(service: ServiceSpec) -> int:
            return 0 if service.name in troubled else 1 if any(e.name in news for e in service.endpoints) else 2

        best = nsmallest(limit, self._services.values(), key=rank)
        return {service.name: service for service in best}

    @property
    def count(self) -> int:
        """How many services there are."""
        return len(self._services)

    def stop(self) -> None:
        """End all probing."""
        self.checker.stop()


def _tell_nobody(change: str) -> None:
    """Changes that the supervisor makes to a row are told where it makes them."""
