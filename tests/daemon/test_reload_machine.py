"""Any sequence of registries and configurations: rows belong to one endpoint each, and what stays keeps all it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from charon.base.addresses import parse_address
from charon.config.compile import compile_settings
from charon.config.load import load_config
from charon.config.registry import Target
from charon.config.settings import Settings
from charon.config.snapshot import ServiceSpec
from charon.daemon import shared as module
from charon.daemon.shared import Shared
from charon.discovery.directory import Directory
from charon.shared.rows import NO_ROW
from charon.shared.state import EndpointState
from charon.shared.table import SharedTable
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.sink import LogSink

ENDPOINT_ROWS = 6
SERVICE_ROWS = 3
NAMES = ("a", "b", "c", "d")
ADDRESSES = tuple(f"10.0.0.{number}:80" for number in range(1, 5))
CONFIGS = (
    "circuit_breaker: {failure_threshold: 3, open_duration: 20s}\n",
    "circuit_breaker: {failure_threshold: 9, open_duration: 1s}\nload_balancing: least_request\n",
)
TABLE = SharedTable.create(2)
EVENTS = EventLog(LogSink(None), "error", "json", "production")

Key = tuple[str, str]


class Registry:
    """A source whose services are what the test last said."""

    name = "registry"

    def __init__(self) -> None:
        self.now: dict[str, tuple[Target, ...]] = {}

    def services(self) -> dict[str, tuple[Target, ...]]:
        return self.now

    def start(self, on_change: Any) -> None:
        self.changed = on_change

    def stop(self) -> None:
        raise AssertionError("nobody stops it here")


class Machine(RuleBasedStateMachine):
    """Registry, directory and rows as the supervisor has them, without its event loop. There are fewer rows than may
    be asked for."""

    configurations: tuple[Settings, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        for row in range(ENDPOINT_ROWS):
            TABLE.clear_row(row)
        with (
            mock.patch.object(module, "ROWS", ENDPOINT_ROWS),
            mock.patch.object(module, "SERVICE_ROWS", SERVICE_ROWS),
            mock.patch.object(module.SharedTable, "create", return_value=TABLE),
        ):
            self.shared = Shared(2, Totals(), EVENTS)
        self.registry = Registry()
        resolver = mock.Mock(**{"answer.side_effect": AssertionError("there is no name to resolve")})
        self.directory = Directory([self.registry], resolver, lambda: None, EVENTS, mock.Mock())
        self.directory.start()
        self.settings = self.configurations[0]
        self.services: dict[str, ServiceSpec] = {}
        self.failures: dict[Key, int] = {}  # counted of each endpoint since it is there
        self.follow()

    def teardown(self) -> None:
        self.shared.stop()

    def follow(self) -> None:
        """What the supervisor does with a change, and what must have stayed."""
        before = self.services
        self.registry.changed()
        self.directory._update()
        found = self.directory.services()
        assert {name: [e.name for e in endpoints] for name, endpoints in found.items()} == {
            name: list(dict.fromkeys(str(target.address) for target in targets))
            for name, targets in self.registry.now.items()
        }
        self.services = dict(self.shared.assign(found, self.settings, {}))
        rows, new_rows = self.rows(before), self.rows(self.services)
        for key, row in new_rows.items():
            if key in rows and rows[key] != NO_ROW:
                assert row == rows[key], f"{key} has lost its row"
        for name, service in self.services.items():
            if name in before and before[name].row != NO_ROW:
                assert service.row == before[name].row, f"{name} has lost its row"
        self.failures = {key: self.failures.get(key, 0) if rows.get(key, NO_ROW) != NO_ROW else 0 for key in new_rows}

    @staticmethod
    def rows(services: dict[str, ServiceSpec]) -> dict[Key, int]:
        return {(name, e.name): e.row for name, service in services.items() for e in service.endpoints}

    def state(self, key: Key, holder: int = 1) -> EndpointState:
        service = self.services[key[0]]
        return EndpointState(TABLE, self.rows(self.services)[key], holder, service.breaker, None, lambda change: None)

    @rule(name=st.sampled_from(NAMES), addresses=st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3))
    def service_written(self, name: str, addresses: list[str]) -> None:
        self.registry.now = self.registry.now | {name: tuple(Target(parse_address(text)) for text in addresses)}
        self.follow()

    @rule(name=st.sampled_from(NAMES))
    def service_removed(self, name: str) -> None:
        self.registry.now = {other: targets for other, targets in self.registry.now.items() if other != name}
        self.follow()

    @rule()
    def nothing_changed(self) -> None:
        before = dict(self.services)
        self.follow()
        assert all(self.services[name] is before[name] for name in before), "what stays is the same object"

    @rule(which=st.integers(0, len(CONFIGS) - 1))
    def configuration_reloaded(self, which: int) -> None:
        self.settings = self.configurations[which]
        self.follow()
        threshold = (3, 9)[which]
        assert all(s.breaker is not None and s.breaker.failure_threshold == threshold for s in self.services.values())

    @precondition(lambda self: any(row != NO_ROW for row in self.rows(self.services).values()))
    @rule(which=st.integers(0, 99))
    def endpoint_fails(self, which: int) -> None:
        keys = sorted(key for key, row in self.rows(self.services).items() if row != NO_ROW)
        key = keys[which % len(keys)]
        if self.state(key).breaker_state() == "closed":
            self.state(key).failure(1.0, 1.0, trial=False)
            self.failures[key] += 1

    @rule(slot=st.integers(0, 1))
    def worker_dies(self, slot: int) -> None:
        self.shared.worker_gone(slot)

    @invariant()
    def every_row_has_one_owner(self) -> None:
        rows = [row for row in self.rows(self.services).values() if row != NO_ROW]
        assert len(rows) == len(set(rows)), "two endpoints share a row"
        assert all(0 <= row < ENDPOINT_ROWS for row in rows)
        service_rows = [service.row for service in self.services.values() if service.row != NO_ROW]
        assert len(service_rows) == len(set(service_rows)), "two services share a row"

    @invariant()
    def no_row_is_kept_from_those_who_have_none(self) -> None:
        """Who came when all were taken has none, and gets one the next time that its service is looked at."""
        taken = sum(row != NO_ROW for row in self.rows(self.services).values())
        assert len(self.shared._rows) == taken, "a row is held for somebody who has left"

    @invariant()
    def what_was_counted_is_still_there_and_nothing_else(self) -> None:
        for key, row in self.rows(self.services).items():
            if row != NO_ROW:
                assert self.state(key)._read_breaker().failures == self.failures[key], key

    @invariant()
    def status_shows_what_is_there(self) -> None:
        status = self.shared.status(None, ())
        shown = {(name, each["endpoint"]) for name, endpoints in status.items() for each in endpoints}
        assert shown == self.rows(self.services).keys()


@pytest.fixture(scope="module")
def configurations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, ...]:
    def compiled(number: int, text: str) -> Settings:
        file: Path = tmp_path_factory.mktemp("config") / f"{number}.yaml"
        file.write_text(f"target_service_addr: 10.9.9.9:80\nhealth_check: {{enabled: false}}\n{text}")
        return compile_settings(load_config(file, {}))

    return tuple(compiled(number, text) for number, text in enumerate(CONFIGS))


def test_reloads(configurations: tuple[Settings, ...]) -> None:
    machine = type("Reloads", (Machine,), {"configurations": configurations})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # a failure is short enough, and making it shorter takes long
        ),
    )
