"""A set of names kept resolved: time to live, outages, refresh, and no name in another's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from charon.base.clock import FakeClock
from charon.base.names import Event
from charon.discovery.dns import Pace, Resolver
from charon.discovery.lookup import Addresses, Lookup, LookupFailed, SystemFiles
from tests.discovery.dns_server import DnsServer
from tests.discovery.support import PATIENCE, Changes, Recorder, spawn

FAST = Pace(min_ttl=0.02, max_ttl=300.0, retry_min=0.02, retry_max=0.1, refresh_interval=0.02)


def turn() -> None:
    """Let every greenlet that can run do so."""
    for _ in range(10):
        gevent.sleep(0)


Start = Callable[..., Resolver]


@pytest.fixture
def start(dns_server: DnsServer, tmp_path: Path, hosts: Path, log: Recorder, changes: Changes) -> Iterator[Start]:
    started: list[Resolver] = []

    def build(*names: str, pace: Pace = FAST) -> Resolver:
        none = str(tmp_path / "none")
        files = SystemFiles(str(hosts), none, none)
        lookup = Lookup(spawn, nameservers=[dns_server.address], files=files, lifetime=0.2, attempt=0.1)
        resolver = Resolver(lookup.find, spawn, log, pace=pace)
        started.append(resolver)
        resolver.start(changes)
        resolver.watch(names)
        assert resolver.wait(PATIENCE)
        return resolver

    yield build
    for resolver in started:
        resolver.stop()


def ipv4(resolver: Resolver, name: str = "web.test") -> tuple[str, ...] | None:
    answer = resolver.answer(name)
    return answer.ipv4 if answer else None


def test_asks_again_when_the_time_to_live_is_over(start: Start, dns_server: DnsServer, changes: Changes) -> None:
    dns_server.put("web.test.", "10.0.0.1", ttl=0)
    resolver = start("web.test")
    assert ipv4(resolver) == ("10.0.0.1",)
    dns_server.put("web.test.", "10.0.0.2", "10.0.0.3", ttl=0)
    changes.until(lambda: ipv4(resolver) == ("10.0.0.2", "10.0.0.3"))


def test_another_order_is_no_change(start: Start, dns_server: DnsServer, changes: Changes) -> None:
    dns_server.put("web.test.", "10.0.0.1", "10.0.0.2", ttl=0)
    dns_server.put("other.test.", "10.0.0.1", ttl=0)
    resolver = start("web.test", "other.test")
    dns_server.put("web.test.", "10.0.0.2", "10.0.0.1", ttl=0)
    asked = dns_server.count("web.test.")
    changes.calls.clear()
    dns_server.put("other.test.", "10.0.0.9", ttl=0)
    changes.until(lambda: ipv4(resolver, "other.test") == ("10.0.0.9",))
    with gevent.Timeout(PATIENCE):
        while dns_server.count("web.test.") < asked + 3:
            gevent.sleep(0.01)
    assert set(changes.calls) == {("other.test",)}


@pytest.mark.parametrize(("ttl", "expected"), [(0, 1.0), (1, 1.0), (60, 60.0), (86_400, 300.0)])
def test_the_time_to_live_has_a_floor_and_a_ceiling(ttl: float, expected: float, log: Recorder) -> None:
    clock = FakeClock()
    asked: list[float] = []

    def find(name: str) -> Addresses:
        asked.append(clock.monotonic())
        return Addresses(("10.0.0.1",), (), ttl)

    resolver = Resolver(find, spawn, log, clock=clock, jitter=lambda: 0.0)
    resolver.watch(["web.test"])
    resolver.start(lambda name: None)
    assert resolver.wait(PATIENCE)
    clock.advance(expected - 0.01)
    assert resolver._launch_due() == pytest.approx(0.01)
    clock.advance(0.02)
    resolver._launch_due()
    turn()
    resolver.stop()
    assert len(asked) == 2


@pytest.mark.parametrize("outage", ["broken", "silent", "gone"])
def test_the_last_good_answer_is_kept_through_an_outage(
    outage: str, start: Start, dns_server: DnsServer, changes: Changes, log: Recorder
) -> None:
    dns_server.put("web.test.", "10.0.0.1", ttl=0)
    resolver = start("web.test")
    changes.calls.clear()
    if outage == "gone":
        dns_server.remove("web.test.")
    else:
        getattr(dns_server, outage).add("web.test.")
    event = log.wait_for(Event.RESOLVE_FAILED)
    assert event["host"] == "web.test"
    assert event["addresses_kept"] == 1
    failing = resolver.status()[0]
    assert failing.addresses == ("10.0.0.1",)
    assert failing.age is not None
    assert failing.failing_for is not None
    assert failing.error

    asked = dns_server.count("web.test.")
    with gevent.Timeout(PATIENCE):
        while dns_server.count("web.test.") < asked + 3:
            gevent.sleep(0.01)
    assert len(log.named(Event.RESOLVE_FAILED)) == 1
    assert ipv4(resolver) == ("10.0.0.1",)
    assert changes.calls == []

    dns_server.broken.clear()
    dns_server.silent.clear()
    dns_server.put("web.test.", "10.0.0.2", ttl=0)
    log.wait_for(Event.RESOLVE_RECOVERED)
    changes.until(lambda: ipv4(resolver) == ("10.0.0.2",))
    assert resolver.status()[0].failing_for is None
    assert len(log.named(Event.RESOLVE_RECOVERED)) == 1


def test_a_family_that_cannot_be_asked_keeps_its_last_answer(
    start: Start, dns_server: DnsServer, changes: Changes
) -> None:
    dns_server.put("web.test.", "10.0.0.1", "fd00::1", ttl=0)
    resolver = start("web.test")
    dns_server.silent_types.add("AAAA")
    dns_server.put("web.test.", "10.0.0.2", ttl=0)
    changes.until(lambda: ipv4(resolver) == ("10.0.0.2",))
    answer = resolver.answer("web.test")
    assert answer is not None
    assert answer.ipv6 == ("fd00::1",)


def test_a_name_that_never_resolved_is_told_once_and_found_later(
    start: Start, dns_server: DnsServer, changes: Changes, log: Recorder
) -> None:
    resolver = start("late.test")
    assert resolver.answer("late.test") is None
    assert log.wait_for(Event.RESOLVE_FAILED)["addresses_kept"] == 0
    assert changes.calls == [("late.test",)]
    dns_server.put("late.test.", "10.0.0.1")
    changes.until(lambda: ipv4(resolver, "late.test") == ("10.0.0.1",))
    assert len(log.named(Event.RESOLVE_FAILED)) == 1


def test_a_slow_name_does_not_delay_another(start: Start, dns_server: DnsServer, changes: Changes) -> None:
    dns_server.put("web.test.", "10.0.0.1")
    dns_server.put("slow.test.", "10.0.0.9")
    dns_server.held.add("slow.test.")
    resolver = start()
    resolver.watch(["slow.test", "web.test"])
    changes.until(lambda: ipv4(resolver) == ("10.0.0.1",))
    assert resolver.answer("slow.test") is None
    dns_server.release.set()
    changes.until(lambda: ipv4(resolver, "slow.test") == ("10.0.0.9",))


def test_no_more_lookups_at_once_than_allowed(log: Recorder) -> None:
    running = most = 0

    def find(name: str) -> Addresses:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gevent.sleep(0.001)
        running -= 1
        return Addresses(("10.0.0.1",), (), 60.0)

    resolver = Resolver(find, spawn, log, pace=Pace(concurrent=5))
    resolver.start(lambda name: None)
    names = [f"n{number}.test" for number in range(100)]
    resolver.watch(names)
    assert resolver.wait(PATIENCE)
    resolver.stop()
    assert most == 5
    assert all(resolver.answer(name) for name in names)


def test_refresh_asks_at_once_but_not_more_than_once_an_interval(log: Recorder) -> None:
    clock = FakeClock()
    asked: list[float] = []

    def find(name: str) -> Addresses:
        asked.append(clock.monotonic())
        return Addresses(("10.0.0.1",), (), 300.0)

    resolver = Resolver(find, spawn, log, clock=clock, jitter=lambda: 0.0)
    resolver.start(lambda name: None)
    resolver.watch(["web.test"])
    assert resolver.wait(PATIENCE)

    clock.advance(0.4)
    for _ in range(10):
        resolver.refresh("web.test")
    turn()
    assert len(asked) == 1

    clock.advance(0.6)
    resolver._launch_due()
    turn()
    assert len(asked) == 2

    clock.advance(100.0)
    resolver.refresh("web.test")
    turn()
    assert len(asked) == 3
    resolver.refresh("never.heard.of.it")
    resolver.stop()


def test_tries_after_a_failure_come_further_and_further_apart(log: Recorder) -> None:
    clock = FakeClock()

    def find(name: str) -> Addresses:
        raise LookupFailed("no")

    resolver = Resolver(find, spawn, log, clock=clock, jitter=lambda: 0.0)
    resolver.start(lambda name: None)
    resolver.watch(["web.test"])
    assert resolver.wait(PATIENCE)
    waits = []
    for _ in range(7):
        wait = resolver._launch_due()
        assert wait is not None
        waits.append(wait)
        clock.advance(wait)
        resolver._launch_due()
        turn()
    resolver.stop()
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30])


def test_a_surprise_in_a_lookup_is_a_failure_that_is_tried_again(log: Recorder, changes: Changes) -> None:
    surprises = [ZeroDivisionError("what")]

    def find(name: str) -> Addresses:
        if surprises:
            raise surprises.pop()
        return Addresses(("10.0.0.1",), (), 60.0)

    resolver = Resolver(find, spawn, log, pace=FAST)
    resolver.start(changes)
    resolver.watch(["web.test"])
    assert "ZeroDivisionError" in str(log.wait_for(Event.RESOLVE_FAILED)["reason"])
    changes.until(lambda: ipv4(resolver) == ("10.0.0.1",))
    resolver.stop()


def test_a_name_no_longer_watched_is_forgotten(start: Start, dns_server: DnsServer) -> None:
    dns_server.put("web.test.", "10.0.0.1", ttl=0)
    dns_server.put("other.test.", "10.0.0.2", ttl=0)
    resolver = start("web.test", "other.test")
    resolver.watch(["other.test"])
    assert resolver.answer("web.test") is None
    assert [status.name for status in resolver.status()] == ["other.test"]


def test_status_tells_the_age_of_each_answer(log: Recorder) -> None:
    clock = FakeClock()
    resolver = Resolver(lambda name: Addresses(("10.0.0.1",), ("fd00::1",), 60.0), spawn, log, clock=clock)
    resolver.start(lambda name: None)
    resolver.watch(["web.test"])
    assert resolver.wait(PATIENCE)
    clock.advance(7.0)
    status = resolver.status()[0]
    resolver.stop()
    assert (status.name, status.age, status.ttl) == ("web.test", 7.0, 60.0)
    assert status.addresses == ("10.0.0.1", "fd00::1")
    assert status.failing_for is None
