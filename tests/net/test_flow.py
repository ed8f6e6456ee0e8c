"""One direction between two streams: exactly what is asked for, by copies or through a pipe, and no pipe used twice
that is not empty."""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import termios

import pytest
from gevent import Greenlet, socket

from charon.net import flow
from charon.net.flow import Flow, pipes
from charon.net.stream import READ_SIZE, DeadlineExceeded, Stream
from charon.net.tasks import spawn
from tests.net.support import Wires, until

PATIENT = 10.0
BULK = os.urandom(8_000_000)


def arrived(stream: Stream) -> int:
    """How many bytes wait to be read."""
    return int(struct.unpack("i", fcntl.ioctl(stream.sock.fileno(), termios.FIONREAD, bytes(4)))[0])


class Way:
    """``far`` sends into the flow, ``near`` gets what comes out of it."""

    def __init__(self, wires: Wires, *, bulk: bool = True, room: int | None = None) -> None:
        source, self.far = wires.tcp()
        target, self.near = wires.tcp(buffers=room)
        self.flow = Flow(source, target, bulk=bulk)
        self.patience = PATIENT
        self.taken: list[bytes | int] = []

    def send(self, data: bytes) -> Greenlet[..., None]:
        return spawn("sender", self.far.sendall, data)

    def pump(self, total: int) -> None:
        """Move ``total`` bytes, and not one more."""
        while total:
            taken = self.flow.take(PATIENT, total)
            self.taken.append(taken)
            total -= taken if isinstance(taken, int) else len(taken)
            self.flow.give(taken, self.patience)

    def to_pipe(self) -> None:
        """Move the beginning of BULK, by a pipe."""
        until(lambda: arrived(self.flow.source) >= READ_SIZE)
        moving = spawn("pump", self.pump, READ_SIZE)
        assert read(self.near, READ_SIZE) == BULK[:READ_SIZE]
        moving.get()


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"{size - len(data)} bytes are missing"
        data += piece
    return data


def waiting(stream: Stream) -> bool:
    """Whether something waits for what ``stream`` will bring."""
    return bool(stream._reader.active)


def test_it_moves_what_is_asked_for_and_leaves_the_next_byte(wires: Wires) -> None:
    way = Way(wires)
    way.send(BULK)
    moving = spawn("pump", way.pump, 5_000_001)
    assert read(way.near, 5_000_001) == BULK[:5_000_001]
    moving.get()
    assert {type(taken) for taken in way.taken} == {int}, "it was copied"
    assert (way.flow.source.received, way.flow.target.sent, way.flow.held) == (5_000_001, 5_000_001, 0)
    assert way.flow.source.read(PATIENT, 10) == BULK[5_000_001:5_000_011]
    way.flow.close()
    assert len(pipes.spare) == 1


@pytest.mark.parametrize(("bulk", "copies"), [(True, 0), (False, 4)])
def test_it_begins_with_copies_unless_bulk_is_known_to_come(wires: Wires, bulk: bool, copies: int) -> None:
    way = Way(wires, bulk=bulk)
    way.flow.source.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    way.send(BULK)
    until(lambda: arrived(way.flow.source) >= 5 * READ_SIZE)
    moving = spawn("pump", way.pump, len(BULK))
    assert read(way.near, len(BULK)) == BULK
    moving.get()
    assert [isinstance(taken, bytes) for taken in way.taken[: copies + 1]] == [True] * copies + [False]
    way.flow.close()


def test_a_flow_that_gets_small_gives_its_pipe_back(wires: Wires) -> None:
    way = Way(wires)
    way.send(BULK[:READ_SIZE])
    way.to_pipe()
    for _ in range(40):
        way.far.sendall(b"small")
        way.pump(5)
        assert read(way.near, 5) == b"small"
    assert isinstance(way.taken[0], int) and isinstance(way.taken[-1], bytes)
    assert len(pipes.spare) == 1


def test_a_wait_that_was_too_long_has_taken_nothing(wires: Wires) -> None:
    way = Way(wires)
    way.send(BULK[:READ_SIZE])
    way.to_pipe()
    with pytest.raises(DeadlineExceeded):
        way.flow.take(0.03)
    way.far.sendall(b"late")
    taken = way.flow.take(PATIENT)
    assert taken == 4
    way.flow.give(taken, PATIENT)
    assert read(way.near, 4) == b"late"


def test_what_is_in_the_pipe_when_the_target_takes_no_more_reaches_nobody(wires: Wires) -> None:
    way = Way(wires, room=4096)
    way.send(BULK)
    way.to_pipe()
    way.patience = 0.03
    with pytest.raises(DeadlineExceeded):
        way.pump(len(BULK))
    assert way.flow.held > 0, "it was not in the middle of a move"
    held = way.flow.held
    before = len(os.listdir("/proc/self/fd"))
    way.flow.close()
    assert not pipes.spare and len(os.listdir("/proc/self/fd")) == before - 2
    assert way.flow.held == held, "how much is lost can be told"
    way.flow.close()  # safe to repeat


@pytest.mark.parametrize("side", ["source", "target"])
def test_it_can_be_interrupted_wherever_it_waits(wires: Wires, side: str) -> None:
    class EndedHere(Exception):
        pass

    way = Way(wires, room=4096)
    way.send(BULK if side == "target" else BULK[:READ_SIZE])
    way.to_pipe()
    moving = spawn("pump", way.pump, len(BULK))
    stream = getattr(way.flow, side)
    until(stream.write_stalls if side == "target" else lambda: waiting(stream))
    stream.interrupt(EndedHere())
    with pytest.raises(EndedHere):
        moving.get()
    way.flow.close()
    assert len(pipes.spare) == (0 if side == "target" else 1)


def test_a_source_that_always_has_more_is_interrupted_too(wires: Wires) -> None:
    class EndedHere(Exception):
        pass

    way = Way(wires)
    way.send(BULK * 10)
    reading = spawn("reader", lambda: sum(len(way.near.recv(1 << 20)) for _ in iter(int, 1)))
    moving = spawn("pump", way.pump, len(BULK) * 10)
    until(lambda: way.flow.target.sent > READ_SIZE)
    way.flow.source.interrupt(EndedHere())
    with pytest.raises(EndedHere):
        moving.get()
    way.flow.close()
    reading.kill()


def test_without_descriptors_for_a_pipe_it_goes_on_copying(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", none_left)
    way = Way(wires)
    way.send(BULK)
    moving = spawn("pump", way.pump, len(BULK))
    assert read(way.near, len(BULK)) == BULK
    moving.get()
    assert {type(taken) for taken in way.taken} == {bytes}
    assert pipes.open == 0


def test_pipes_have_an_eighth_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (32, 32))
    borrowed = [pipes.borrow() for _ in range(3)]
    assert [pipe is not None for pipe in borrowed] == [True, True, False]
    for pipe in filter(None, borrowed):
        pipes.give_back(pipe, 0)
    assert pipes.borrow() in borrowed and pipes.open == 2


def test_a_pipe_too_small_to_be_of_use_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an unprivileged user gets it whose share of pipe memory is used up."""

    def no_share(descriptor: int, command: int, size: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError
        return 8192

    monkeypatch.setattr(flow, "fcntl", no_share)
    before = os.listdir("/proc/self/fd")
    assert pipes.borrow() is None
    assert (pipes.open, os.listdir("/proc/self/fd")) == (0, before)


def test_the_end_of_the_source_is_nothing(wires: Wires) -> None:
    way = Way(wires)
    way.send(BULK[:READ_SIZE])
    way.to_pipe()
    way.far.close()
    assert way.flow.take(PATIENT) == 0
    way.flow.close()
    assert len(pipes.spare) == 1
