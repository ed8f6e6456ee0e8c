"""Two streams joined: every byte in order, half-close in each direction, and an end with its reason."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import gevent
import pytest
from gevent import Greenlet, socket

from charon.base.errors import CLIENT_ABORT, IDLE_TIMEOUT, UPSTREAM_RESET
from charon.net.flow import PIPE_SIZE, pipes
from charon.net.relay import Relay, RelayEnded
from charon.net.stream import Stream
from charon.net.tasks import names, spawn
from tests.net.support import Wires, read_all, reset, until

PATIENT = 10.0


class Joined:
    """``client`` and ``server`` are the far ends of a relay that is running."""

    def __init__(self, wires: Wires, idle: float, buffers: int | None = None) -> None:
        near_client, self.client = wires.tcp(buffers=buffers)
        near_server, self.server = wires.tcp(buffers=buffers)
        self.relay = Relay(near_client, near_server, idle)
        self.running: Greenlet[..., None] = spawn("relay", self.relay.run, "relay up")

    def finish(self) -> Relay:
        self.running.get()
        return self.relay


Join = Callable[..., Joined]


@pytest.fixture
def join(wires: Wires) -> Join:
    def make(idle: float = PATIENT, buffers: int | None = None) -> Joined:
        return Joined(wires, idle, buffers)

    return make


def test_copies_both_ways_until_both_have_finished(join: Join) -> None:
    joined = join()
    joined.client.sendall(b"question")
    assert joined.server.recv(100) == b"question"
    joined.server.sendall(b"answer")
    assert joined.client.recv(100) == b"answer"
    joined.client.shutdown(1)
    assert joined.server.recv(1) == b""
    joined.server.shutdown(1)
    assert joined.client.recv(1) == b""
    relay = joined.finish()
    assert relay.reason is None and relay.detail == ""
    assert (relay.client.received, relay.client.sent) == (8, 6)
    assert (relay.upstream.received, relay.upstream.sent) == (6, 8)
    assert not relay.client.closed and not relay.upstream.closed  # that is the caller's to do


@pytest.mark.parametrize("first", ["client", "server"])
def test_the_side_that_finished_first_still_gets_the_rest(join: Join, first: str) -> None:
    joined = join()
    early, late = (joined.client, joined.server) if first == "client" else (joined.server, joined.client)
    early.sendall(b"all I have to say")
    early.shutdown(1)
    assert read_all(late) == b"all I have to say"
    rest = os.urandom(300_000)
    reading = spawn("reader", read_all, early)
    late.sendall(rest)
    late.shutdown(1)
    assert reading.get() == rest
    assert joined.finish().reason is None


def test_bulk_both_ways_at_once_is_byte_exact_and_goes_through_pipes(join: Join) -> None:
    joined = join(buffers=1 << 20)  # so that a reader that comes late finds more than its buffer takes
    size = 20_000_000
    up, down = os.urandom(size), os.urandom(size)

    def send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(1)

    def digest(sock: socket.socket) -> str:
        seen = hashlib.sha256()
        while block := sock.recv(1 << 20):
            seen.update(block)
        return seen.hexdigest()

    tasks = [spawn("up", send, joined.client, up), spawn("down", send, joined.server, down)]
    arriving = [spawn("digest", digest, joined.server), spawn("digest", digest, joined.client)]
    assert [task.get() for task in arriving] == [hashlib.sha256(up).hexdigest(), hashlib.sha256(down).hexdigest()]
    gevent.joinall(tasks, raise_error=True)
    relay = joined.finish()
    assert relay.reason is None
    assert relay.client.received == relay.client.sent == size
    assert pipes.spare, "the bulk was copied, not spliced"


def test_bulk_takes_a_pipe_and_small_messages_give_it_back(join: Join) -> None:
    joined = join()
    reading = spawn("reader", lambda: sum(len(joined.server.recv(1 << 20)) for _ in iter(int, 1)))
    joined.client.sendall(bytes(8_000_000))
    until(lambda: joined.relay.upstream.sent == 8_000_000)
    assert (pipes.open, pipes.spare) == (1, [])
    sent = 8_000_000
    for _ in range(60):
        joined.client.sendall(b"small")
        sent += 5
        until(lambda: joined.relay.upstream.sent == sent)  # noqa: B023 - used at once
    assert len(pipes.spare) == pipes.open == 1, "the pipe is free again"
    reading.kill()
    joined.running.kill()


def test_a_pipe_with_bytes_left_in_it_never_serves_another_pair(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Stream] = []

    def stop_here(stream: Stream) -> None:
        stopped.append(stream)
        raise RelayEnded

    joined = join()
    sending = spawn("sender", joined.client.sendall, bytes(50_000_000))
    reading = spawn("reader", lambda: sum(len(joined.server.recv(1 << 20)) for _ in iter(int, 1)))
    monkeypatch.setattr(Stream, "give_way", stop_here)
    until(lambda: stopped)
    for task in (sending, reading, joined.running):
        task.kill()
    assert (pipes.open, pipes.spare) == (0, [])


def test_an_idle_relay_ends_with_its_reason(join: Join) -> None:
    relay = join(idle=0.05).finish()
    assert relay.reason is IDLE_TIMEOUT
    assert relay.detail == "nothing moved for 0.05 s"


def test_the_idle_time_counts_for_half_open_relays_too(join: Join) -> None:
    joined = join(idle=0.05)
    joined.client.shutdown(1)
    assert joined.finish().reason is IDLE_TIMEOUT


def test_it_is_not_idle_while_the_other_direction_moves(join: Join) -> None:
    joined = join(idle=0.08)
    for _ in range(25):  # three idle times, in steps that are short against one
        joined.server.sendall(b"tick")
        assert joined.client.recv(4) == b"tick"
        gevent.sleep(0.01)
    assert joined.relay.reason is None
    assert not joined.running.ready()
    assert joined.finish().reason is IDLE_TIMEOUT


def test_a_peer_that_does_not_read_is_idle(join: Join) -> None:
    joined = join(idle=0.05, buffers=4096)
    sending = spawn("sender", joined.client.sendall, bytes(50_000_000))
    assert joined.finish().reason is IDLE_TIMEOUT
    sending.kill()


@pytest.mark.parametrize(("side", "reason"), [("client", CLIENT_ABORT), ("server", UPSTREAM_RESET)])
def test_a_reset_ends_both_directions_and_says_whose_it_was(join: Join, side: str, reason: object) -> None:
    joined = join()
    reset(getattr(joined, side))
    relay = joined.finish()
    assert relay.reason is reason
    assert relay.detail == "Connection reset by peer"


def test_a_reset_in_the_middle_of_bulk_ends_it(join: Join) -> None:
    joined = join(buffers=8192)
    sending = spawn("sender", joined.client.sendall, bytes(50_000_000))
    until(lambda: joined.relay.upstream.sent > 0)
    reset(joined.server)
    assert joined.finish().reason is UPSTREAM_RESET
    sending.kill()


def test_it_can_be_ended_from_outside_and_the_first_reason_counts(join: Join) -> None:
    joined = join()
    joined.client.sendall(b"x")
    assert joined.server.recv(1) == b"x"
    joined.relay.end(IDLE_TIMEOUT, "first")
    joined.relay.end(CLIENT_ABORT, "second")
    relay = joined.finish()
    assert (relay.reason, relay.detail) == (IDLE_TIMEOUT, "first")


def test_no_copier_is_left_behind(join: Join) -> None:
    joined = join()
    until(lambda: "relay up" in names())
    reset(joined.client)
    joined.finish()
    assert "relay up" not in names()


def test_a_pipe_is_asked_to_hold_a_megabyte() -> None:
    assert PIPE_SIZE == 1 << 20


def test_a_client_that_resets_while_the_upstream_does_not_read_is_noticed_by_the_sweep(join: Join) -> None:
    joined = join(buffers=8192)
    sending = spawn("sender", joined.client.sendall, bytes(50_000_000))
    until(joined.relay.upstream.write_stalls)
    joined.relay.notice_departure()
    gevent.sleep(0.01)
    assert not joined.running.ready()
    sending.kill()
    reset(joined.client)
    joined.relay.notice_departure()
    assert joined.finish().reason is CLIENT_ABORT


def test_what_an_upstream_sent_before_its_reset_is_passed_on(join: Join) -> None:
    joined = join(buffers=8192)
    data = os.urandom(200_000)
    sending = spawn("sender", joined.server.sendall, data)
    until(joined.relay.client.write_stalls)
    joined.relay.notice_departure()
    got = b"".join(joined.client.recv(65_536) for _ in range(2))
    assert data.startswith(got)
    assert not joined.running.ready()
    sending.kill()
