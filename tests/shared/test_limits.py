"""Rate limits and open connections, counted by all processes together, in memory that does not grow."""

from __future__ import annotations

import os
from time import monotonic

import pytest

from charon.config.snapshot import RateLimitSpec
from charon.shared.connections import ClientConnections
from charon.shared.limiter import Buckets, Limiter
from charon.shared.table import SharedTable
from tests.harness.charon import resident_bytes
from tests.shared.processes import in_processes

SECRET = b"the same in all of them"


@pytest.fixture
def table() -> SharedTable:
    return SharedTable.create(4)


def limiter(table: SharedTable, key: str = "route", rate: float = 1.0, burst: int = 50, name: str = "web") -> Limiter:
    return Limiter(RateLimitSpec(name, rate, burst, key), Buckets(table, SECRET))


def allowed(limit: Limiter, count: int, now: float, key: bytes = b"") -> int:
    return sum(limit.take(key, now).allowed for _ in range(count))


# -- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["route", "client_ip"])
def test_four_processes_share_one_bucket(table: SharedTable, key: str) -> None:
    def work(own: SharedTable, number: int) -> int:
        return allowed(limiter(own, key), 100, 1000.0, b"192.0.2.1")

    assert sum(in_processes(table, 4, work)) == 50
    assert allowed(limiter(table, key), 100, 1010.0, b"192.0.2.1") == 10


def test_four_processes_that_never_rest_get_the_rate(table: SharedTable) -> None:
    length, rate, burst = 0.5, 200.0, 20
    begin = monotonic()

    def work(own: SharedTable, number: int) -> int:
        limit = limiter(own, rate=rate, burst=burst)
        passed = 0
        while (now := monotonic()) < begin + length:
            passed += limit.take(b"", now).allowed
        return passed

    # Exact upwards; downwards the machine may have stopped all four at the end, or begun them late.
    assert burst < sum(in_processes(table, 4, work)) <= burst + rate * length + 1


def test_keys_and_limits_are_apart(table: SharedTable) -> None:
    one, other = limiter(table, "client_ip", burst=2), limiter(table, "client_ip", burst=2, name="admin")
    assert [allowed(one, 5, 1.0, key) for key in (b"a", b"b", b"a")] == [2, 2, 0]
    assert allowed(other, 5, 1.0, b"a") == 2


def test_another_start_has_other_buckets(table: SharedTable) -> None:
    spec = RateLimitSpec("web", 1.0, 2, "client_ip")
    places = {Limiter(spec, Buckets(table, secret))._buckets.secret for secret in (b"one", b"other")}
    assert len(places) == 2
    first = Limiter(spec, Buckets(table, b"one"))
    assert allowed(first, 5, 1.0, b"x") == 2
    assert allowed(Limiter(spec, Buckets(table, b"other")), 5, 1.0, b"x") == 2


def test_made_up_keys_cost_bounded_memory_and_push_no_route_out(table: SharedTable) -> None:
    route = limiter(table, "route", rate=0.001, burst=3)
    assert allowed(route, 10, 1.0) == 3
    clients = limiter(table, "client_ip", rate=0.001, burst=1)
    for number in range(5_000):
        clients.take(b"warm %d" % number, 1.0)
    before = resident_bytes(os.getpid())
    for number in range(20_000):
        assert clients.take(b"client %d" % number, 2.0).allowed
    grown = resident_bytes(os.getpid()) - before
    assert grown < 8_000_000, f"{grown} bytes for 20,000 keys"
    assert len(clients._hashes) <= 4096
    assert allowed(route, 10, 3.0) == 0
    # With room for all of them, all are still known.
    assert sum(clients.take(b"client %d" % number, 4.0).allowed for number in range(0, 20_000, 50)) == 0


# -- connections ------------------------------------------------------------------------------------------------------


def test_connections_of_all_workers_count(table: SharedTable) -> None:
    first, other = (ClientConnections(table, slot, SECRET) for slot in (0, 1))
    held = [first.open("web", "192.0.2.1", 3), other.open("web", "192.0.2.1", 3), other.open("web", "192.0.2.1", 3)]
    assert None not in held
    assert first.open("web", "192.0.2.1", 3) is None
    assert first.open("web", "192.0.2.2", 3) is not None, "another client"
    assert first.open("admin", "192.0.2.1", 3) is not None, "another listener"
    assert held[1] is not None
    other.close(held[1])
    assert first.open("web", "192.0.2.1", 3) is not None
    assert other.open("web", "192.0.2.1", 3) is None


def test_a_dead_workers_connections_are_gone(table: SharedTable) -> None:
    first, other = (ClientConnections(table, slot, SECRET) for slot in (0, 1))
    for connections in (first, other, other):
        connections.open("web", "a", 3)
    table.clear_slot(1, [])
    assert [first.open("web", "a", 3) is not None for _ in range(3)] == [True, True, False]


def test_four_processes_open_no_more_than_the_limit(table: SharedTable) -> None:
    def work(own: SharedTable, number: int) -> int:
        connections = ClientConnections(own, number, SECRET)
        return sum(connections.open("web", "192.0.2.1", 50) is not None for _ in range(40))

    assert sum(in_processes(table, 4, work)) == 50


def test_closing_leaves_nothing_behind(table: SharedTable) -> None:
    connections = ClientConnections(table, 2, SECRET)
    for turn in range(3):
        held = [connections.open("web", f"client {number}", 1) for number in range(3000)]
        assert None not in held, turn
        for hashed in held:
            assert hashed is not None
            connections.close(hashed)
    area = table.connection_keys(2)
    counts = [area[start + 8 + way] for start in range(0, len(area), 16) for way in range(8)]
    assert not any(counts)


def test_more_clients_than_there_is_room_for_pass_uncounted(table: SharedTable) -> None:
    connections = ClientConnections(table, 0, SECRET)
    held = [connections.open("web", f"client {number}", 1) for number in range(40_000)]
    assert None not in held
    for hashed in held:
        assert hashed is not None
        connections.close(hashed)
    assert not any(way for start in range(8, 4096, 16) for way in table.connection_keys(0)[start : start + 8])
