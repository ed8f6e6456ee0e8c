"""Sources and names joined: from what is written to the endpoints that workers get."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event as Flag

from charon.base.addresses import parse_address
from charon.base.names import Event
from charon.config.registry import Target
from charon.config.snapshot import EndpointSpec, SocketAddress
from charon.discovery.directory import Directory, endpoints
from charon.discovery.dns import Pace, Resolver
from charon.discovery.lookup import Addresses, LookupFailed
from charon.discovery.source import Services
from charon.discovery.static import StaticSource
from tests.discovery.support import Changes, Recorder, spawn


def target(text: str, weight: int = 1) -> Target:
    return Target(parse_address(text), weight)


def services(**written: str) -> Services:
    return {name: tuple(target(text) for text in texts.split()) for name, texts in written.items()}


def at(*addresses: tuple[str, int]) -> tuple[SocketAddress, ...]:
    return tuple(SocketAddress(host, port) for host, port in addresses)


def answer(*addresses: str) -> Addresses:
    return Addresses(
        tuple(address for address in addresses if "." in address),
        tuple(address for address in addresses if ":" in address),
        60.0,
    )


class World:
    """What names resolve to at this moment; a held name's lookup waits for ``release``."""

    def __init__(self) -> None:
        self.names: dict[str, Addresses] = {}
        self.held: set[str] = set()
        self.release = Flag()

    def find(self, name: str) -> Addresses:
        if name in self.held:
            self.release.wait()
        if name not in self.names:
            raise LookupFailed("no such name", missing=True)
        return self.names[name]


@pytest.fixture
def world() -> World:
    return World()


Begin = Callable[..., Directory]


@pytest.fixture
def begin(world: World, changes: Changes, log: Recorder) -> Iterator[Begin]:
    started: list[Directory] = []

    def start(
        *sources: StaticSource, start_timeout: float = 10.0, on_change: Callable[[], None] = changes
    ) -> Directory:
        resolver = Resolver(world.find, spawn, log, pace=Pace(refresh_interval=0.0, retry_min=0.02, retry_max=0.02))
        directory = Directory(sources, resolver, on_change, log, spawn, start_timeout=start_timeout)
        started.append(directory)
        directory.start()
        return directory

    yield start
    for directory in started:
        directory.stop()


def names(directory: Directory, service: str) -> list[str]:
    return [endpoint.name for endpoint in directory.services()[service]]


@pytest.mark.parametrize("text", ["10.0.0.5:80", "[fd00::1]:80"])
def test_a_literal_is_one_endpoint_named_as_written(text: str) -> None:
    host = text.rpartition(":")[0].strip("[]")
    assert endpoints(target(text), None) == [EndpointSpec(text, at((host, 80)))]


def test_a_unix_socket_is_one_candidate_with_port_0() -> None:
    assert endpoints(target("unix:/run/app.sock"), None) == [
        EndpointSpec("unix:/run/app.sock", at(("/run/app.sock", 0)))
    ]
    assert endpoints(target("unix:/run/app.sock"), None)[0].candidates[0].is_unix


@pytest.mark.parametrize("addresses", [("127.0.0.1", "::1"), ("127.0.0.1",), ("::1",)])
def test_one_address_of_each_family_is_one_endpoint_over_ipv4_first(addresses: tuple[str, ...]) -> None:
    found = endpoints(target("localhost:9091", weight=3), answer(*addresses))
    assert found == [EndpointSpec("localhost:9091", at(*((host, 9091) for host in addresses)), 3, host="localhost")]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (("10.0.0.1", "10.0.0.2"), ["10.0.0.1:80", "10.0.0.2:80"]),
        (("10.0.0.1", "10.0.0.2", "fd00::1"), ["10.0.0.1:80", "10.0.0.2:80"]),
        (("10.0.0.1", "fd00::1", "fd00::2"), ["10.0.0.1:80"]),
        (("fd00::1", "fd00::2"), ["[fd00::1]:80", "[fd00::2]:80"]),
    ],
)
def test_a_name_with_several_addresses_is_several_endpoints(addresses: tuple[str, ...], expected: list[str]) -> None:
    found = endpoints(target("web:80", weight=2), answer(*addresses))
    assert [endpoint.name for endpoint in found] == expected
    assert {endpoint.weight for endpoint in found} == {2}
    assert all(len(endpoint.candidates) == 1 for endpoint in found)


@pytest.mark.parametrize("unresolved", [None, Addresses((), None, 1.0)])
def test_an_unresolved_name_has_no_endpoints(unresolved: Addresses | None) -> None:
    assert endpoints(target("web:80"), unresolved) == []


def test_is_complete_when_start_returns(begin: Begin, world: World, changes: Changes) -> None:
    world.names["web"] = answer("10.0.0.1", "10.0.0.2")
    directory = begin(StaticSource(services(a="web:80 10.0.0.9:80", b="nowhere:80")))
    assert names(directory, "a") == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"]
    assert directory.services()["b"] == ()
    gevent.sleep(0)
    assert changes.calls == []


def test_a_slow_name_does_not_hold_up_the_start_for_ever(begin: Begin, world: World, changes: Changes) -> None:
    world.names.update(slow=answer("10.0.0.1"), web=answer("10.0.0.2"))
    world.held.add("slow")
    directory = begin(StaticSource(services(a="slow:80", b="web:80")), start_timeout=0.05)
    assert names(directory, "a") == []
    assert names(directory, "b") == ["web:80"]
    world.release.set()
    changes.until(lambda: names(directory, "a") == ["slow:80"])


def test_the_earlier_source_has_a_name_that_both_hold(begin: Begin) -> None:
    first = StaticSource(services(a="10.0.0.1:80"), name="one")
    second = StaticSource(services(a="10.0.0.2:80", b="10.0.0.3:80"), name="two")
    directory = begin(first, second)
    assert names(directory, "a") == ["10.0.0.1:80"]
    assert names(directory, "b") == ["10.0.0.3:80"]


def test_endpoints_given_twice_are_one_with_both_weights(begin: Begin, world: World) -> None:
    world.names["web"] = answer("10.0.0.1", "10.0.0.2")
    written = (target("10.0.0.1:80", weight=2), target("web:80", weight=3), target("WEB:80", weight=4))
    directory = begin(StaticSource({"a": written}))
    assert directory.services()["a"] == (
        EndpointSpec("10.0.0.1:80", at(("10.0.0.1", 80)), 9),
        EndpointSpec("10.0.0.2:80", at(("10.0.0.2", 80)), 7, host="web"),
    )


def test_a_source_changes(begin: Begin, changes: Changes) -> None:
    source = StaticSource(services(a="10.0.0.1:80", gone="10.0.0.2:80", same="10.0.0.3:80"))
    directory = begin(source)
    before = directory.services()
    source.replace(services(a="10.0.0.9:80", same="10.0.0.3:80", came="10.0.0.4:80"))
    changes.until(lambda: list(directory.services()) == ["a", "same", "came"])
    assert names(directory, "a") == ["10.0.0.9:80"]
    assert directory.services()["same"] is before["same"]
    assert list(before) == ["a", "gone", "same"]


def test_a_burst_is_one_callback(begin: Begin, changes: Changes) -> None:
    source = StaticSource(services(a="10.0.0.1:80"))
    directory = begin(source)
    for number in range(2, 7):
        source.replace(services(a=f"10.0.0.{number}:80"))
        gevent.sleep(0)
    changes.until(lambda: names(directory, "a") == ["10.0.0.6:80"])
    assert len(changes.calls) == 1


def test_a_name_changes(begin: Begin, world: World, changes: Changes) -> None:
    world.names["web"] = answer("10.0.0.1", "127.0.0.1")
    directory = begin(StaticSource(services(a="web:80", other="10.0.0.7:80")))
    world.names["web"] = answer("10.0.0.2")
    directory.refresh("a")
    changes.until(lambda: names(directory, "a") == ["web:80"])
    assert directory.services()["a"][0].candidates == at(("10.0.0.2", 80))


def test_a_service_that_moves_to_a_new_name_is_never_without_endpoints(
    begin: Begin, world: World, changes: Changes
) -> None:
    world.names["new"] = answer("10.0.0.2")
    world.held.add("new")
    source = StaticSource(services(a="10.0.0.1:80"))
    directory = begin(source)
    source.replace(services(a="new:80", other="10.0.0.3:80"))
    changes.until(lambda: "other" in directory.services())
    assert names(directory, "a") == ["10.0.0.1:80"]
    world.release.set()
    changes.until(lambda: names(directory, "a") == ["new:80"])


def test_a_service_that_moves_to_a_name_that_is_not_there_has_no_endpoints(
    begin: Begin, changes: Changes, log: Recorder
) -> None:
    source = StaticSource(services(a="10.0.0.1:80"))
    directory = begin(source)
    source.replace(services(a="typo:80"))
    changes.until(lambda: names(directory, "a") == [])
    assert log.wait_for(Event.RESOLVE_FAILED)["host"] == "typo"


def test_a_callback_that_fails_is_told_and_the_next_change_is_followed(begin: Begin, log: Recorder) -> None:
    source = StaticSource(services(a="10.0.0.1:80"))
    calls = Changes()

    def failing() -> None:
        calls()
        raise ValueError("not this one")

    directory = begin(source, on_change=failing)
    source.replace(services(a="10.0.0.2:80"))
    assert "not this one" in str(log.wait_for(Event.INTERNAL_ERROR)["error"])
    source.replace(services(a="10.0.0.3:80"))
    calls.until(lambda: names(directory, "a") == ["10.0.0.3:80"])
    log.wait_for(Event.INTERNAL_ERROR, count=2)


def test_an_equal_replacement_is_no_change() -> None:
    source = StaticSource(services(a="10.0.0.1:80"))
    changes = Changes()
    source.start(changes)
    source.replace(services(a="10.0.0.1:80"))
    assert changes.calls == []
    source.replace(services(a="10.0.0.2:80"))
    assert len(changes.calls) == 1
    source.stop()
    source.replace({})
    assert len(changes.calls) == 1


def test_fifty_thousand_services(begin: Begin, world: World, changes: Changes) -> None:
    world.names["web"] = answer("10.0.0.1")
    written = {f"s{number}": (target(f"10.{number >> 8}.{number & 255}.1:80"),) for number in range(50_000)}
    source = StaticSource(written | {"named": (target("web:80"),)})
    directory = begin(source)
    assert len(directory.services()) == 50_001
    before = directory.services()
    world.names["web"] = answer("10.0.0.2")
    directory.refresh("named")
    changes.until(lambda: directory.services()["named"][0].candidates == at(("10.0.0.2", 80)))
    assert all(directory.services()[name] is before[name] for name in written)
