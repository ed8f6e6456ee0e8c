"""Rows of the shared table, and what is carried over from one set of services to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from charon.config.compile import compile_settings
from charon.config.load import load_config
from charon.config.settings import Settings
from charon.config.snapshot import BreakerSpec, EndpointSpec, ServiceSpec, SocketAddress
from charon.daemon.shared import Shared
from charon.discovery.directory import Found
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals
from charon.telemetry.sink import LogSink


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text("target_service_addr: 10.0.0.1:80\nhealth_check: {enabled: false}\n")
    return compile_settings(load_config(file, {}))


def at(*hosts: str) -> tuple[EndpointSpec, ...]:
    return tuple(EndpointSpec(f"{host}:80", (SocketAddress(host, 80),)) for host in hosts)


@pytest.fixture
def shared() -> Iterator[Shared]:
    shared = Shared(2, Totals(), EventLog(LogSink(None), "error", "json", "production"))
    yield shared
    shared.stop()


def rows(service: ServiceSpec) -> dict[str, int]:
    return {endpoint.name: endpoint.row for endpoint in service.endpoints}


def test_what_has_not_changed_is_the_same_object_and_what_has_keeps_its_rows(shared: Shared, plain: Settings) -> None:
    found: Found = {"a": at("10.0.0.1"), "b": at("10.0.0.1", "10.0.0.2")}
    first = shared.assign(found, plain, {})
    assert (rows(first["a"]), rows(first["b"])) == ({"10.0.0.1:80": 0}, {"10.0.0.1:80": 1, "10.0.0.2:80": 2})
    second = shared.assign({"a": found["a"], "b": at("10.0.0.2", "10.0.0.3")}, plain, {})
    assert second["a"] is first["a"]
    assert rows(second["b"]) == {"10.0.0.2:80": 2, "10.0.0.3:80": 3}
    assert second["b"].row == first["b"].row


def test_other_settings_reach_every_service(shared: Shared, plain: Settings) -> None:
    found: Found = {"a": at("10.0.0.1")}
    shared.assign(found, plain, {})
    after = shared.assign(found, replace(plain, default_service=ServiceSpec("", (), breaker=BreakerSpec(7))), {})
    assert after["a"].breaker == BreakerSpec(7)
    assert rows(after["a"]) == {"10.0.0.1:80": 0}


def test_a_service_that_comes_back_has_another_row(shared: Shared, plain: Settings) -> None:
    found: Found = {"a": at("10.0.0.1"), "b": at("10.0.0.2")}
    shared.assign(found, plain, {})
    shared.assign({"a": found["a"]}, plain, {})
    after = shared.assign(found, plain, {})
    assert rows(after["b"]) == {"10.0.0.2:80": 2}
    assert list(shared.status(None, ())) == ["a", "b"]
