"""Idle connections: only quiet ones are handed out, the newest first, and none outlives its time."""

from __future__ import annotations

import pytest

from charon.net import pool as module
from charon.net.pool import MAX_IDLE_SECONDS, Pool
from charon.net.stream import Stream
from tests.net.support import Wires, until


@pytest.fixture
def three(wires: Wires) -> tuple[Pool, list[Stream], list[object]]:
    pool = Pool()
    pairs = [wires.unix() for _ in range(3)]
    for stream, _ in pairs:
        pool.put(stream)
    return pool, [stream for stream, _ in pairs], [peer for _, peer in pairs]


def test_the_last_one_in_is_the_first_one_out(three: tuple[Pool, list[Stream], list]) -> None:
    pool, streams, _ = three
    assert [pool.take(), pool.take(), pool.take(), pool.take()] == [*reversed(streams), None]


def test_one_that_the_upstream_closed_is_passed_over(three: tuple[Pool, list[Stream], list]) -> None:
    pool, streams, peers = three
    peers[2].close()
    assert pool.take() is streams[1]
    assert streams[2].closed


def test_one_with_unread_bytes_is_passed_over(three: tuple[Pool, list[Stream], list]) -> None:
    """They would be taken for the answer to the next request."""
    pool, streams, peers = three
    peers[2].sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert pool.take() is streams[1]
    assert streams[2].closed


def test_one_that_was_reset_is_passed_over(wires: Wires) -> None:
    pool = Pool()
    stream, peer = wires.tcp()
    pool.put(stream)
    peer.close()
    until(lambda: not stream.quiet())
    assert pool.take() is None
    assert stream.closed and len(pool) == 0


def test_what_is_idle_too_long_is_closed_by_the_sweep(three: tuple[Pool, list[Stream], list]) -> None:
    pool, streams, _ = three
    old = streams[0]
    old.idle_since -= 31.0
    pool.sweep(streams[1].idle_since, idle_seconds=30.0)
    assert old.closed and len(pool) == 2


def test_no_setting_keeps_one_longer_than_upstreams_commonly_do(three: tuple[Pool, list[Stream], list]) -> None:
    pool, streams, _ = three
    pool.sweep(streams[2].idle_since + MAX_IDLE_SECONDS, idle_seconds=3600.0)
    assert all(stream.closed for stream in streams) and len(pool) == 0


def test_the_sweep_closes_what_is_no_longer_quiet(three: tuple[Pool, list[Stream], list]) -> None:
    pool, streams, peers = three
    peers[1].close()
    pool.sweep(streams[2].idle_since, idle_seconds=30.0)
    assert [stream.closed for stream in streams] == [False, True, False]


def test_a_full_pool_keeps_no_more(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDLE", 1)
    pool = Pool()
    first, second = wires.unix()[0], wires.unix()[0]
    pool.put(first)
    pool.put(second)
    assert second.closed and not first.closed and len(pool) == 1


def test_closing_ends_all_and_keeps_none_afterwards(three: tuple[Pool, list[Stream], list], wires: Wires) -> None:
    pool, streams, _ = three
    pool.close()
    late = wires.unix()[0]
    pool.put(late)
    assert all(stream.closed for stream in [*streams, late])
    assert len(pool) == 0 and pool.take() is None
    assert repr(pool) == "<Pool idle=0 closed>"
