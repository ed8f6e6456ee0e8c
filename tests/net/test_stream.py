"""The one door to recv and send: what it returns, what it raises, and that every wait ends."""

from __future__ import annotations

import errno
import os

import pytest

from charon.net.stream import READ_SIZE, DeadlineExceeded, Peer
from charon.net.tasks import spawn
from tests.net.support import Wires, read_all, reset, until

SOON = 0.05
PATIENT = 10.0


def test_reads_what_is_there(wires: Wires) -> None:
    stream, peer = wires.tcp()
    peer.sendall(b"hello")
    until(lambda: not stream.quiet())
    assert stream.read(PATIENT) == b"hello"
    assert stream.received == 5


def test_a_read_waits_for_bytes(wires: Wires) -> None:
    stream, peer = wires.tcp()
    reading = spawn("reader", stream.read, PATIENT)
    until(lambda: stream.deadline < float("inf"))
    peer.sendall(b"late")
    assert reading.get() == b"late"


def test_read_later_gives_what_came_before_it_too(wires: Wires) -> None:
    stream, peer = wires.tcp()
    peer.sendall(b"early")
    assert stream.read_later(PATIENT) == b"early"


def test_reads_at_most_size_bytes(wires: Wires) -> None:
    stream, peer = wires.unix()
    peer.sendall(b"abcdef")
    assert stream.read(PATIENT, 4) == b"abcd"
    assert stream.read(PATIENT, 4) == b"ef"


def test_the_end_of_the_stream_is_empty_bytes_again_and_again(wires: Wires) -> None:
    stream, peer = wires.tcp()
    peer.close()
    assert stream.read(PATIENT) == b""
    assert stream.read(PATIENT) == b""


def test_a_reset_raises(wires: Wires) -> None:
    stream, peer = wires.tcp()
    reset(peer)
    with pytest.raises(ConnectionResetError):
        stream.read(PATIENT)


def test_a_read_gives_up_when_its_patience_ends(wires: Wires) -> None:
    stream, _ = wires.tcp()
    with pytest.raises(DeadlineExceeded):
        stream.read(SOON)


def test_a_read_after_a_deadline_works_again(wires: Wires) -> None:
    stream, peer = wires.tcp()
    with pytest.raises(DeadlineExceeded):
        stream.read(SOON)
    reading = spawn("reader", stream.read, PATIENT)
    until(lambda: stream.deadline > 0)
    peer.sendall(b"x")
    assert reading.get() == b"x"


def test_a_shorter_patience_after_a_longer_one_counts(wires: Wires) -> None:
    stream, peer = wires.tcp()
    peer.sendall(b"x")
    assert stream.read_later(600.0) == b"x"
    with pytest.raises(DeadlineExceeded):
        stream.read(SOON)


def test_no_wait_goes_on_past_the_cutoff(wires: Wires) -> None:
    stream, _ = wires.tcp()
    stream.cutoff = 0.0  # long ago
    with pytest.raises(DeadlineExceeded):
        stream.read(PATIENT)


def test_a_cutoff_does_not_stop_what_needs_no_wait(wires: Wires) -> None:
    stream, peer = wires.unix()
    stream.cutoff = 0.0
    peer.sendall(b"there")
    assert stream.read(PATIENT) == b"there"
    stream.write(b"back", PATIENT)
    assert peer.recv(10) == b"back"


def test_a_waiting_read_can_be_given_a_new_patience(wires: Wires) -> None:
    stream, _ = wires.tcp()
    reading = spawn("reader", stream.read, 600.0)
    until(lambda: stream.deadline < float("inf"))
    stream.rearm(SOON)
    with pytest.raises(DeadlineExceeded):
        reading.get()


def test_rearm_leaves_a_stream_alone_that_nobody_reads(wires: Wires) -> None:
    stream, _ = wires.tcp()
    stream.rearm(SOON)
    assert stream.deadline == float("inf")


def test_writes_everything_to_a_slow_reader(wires: Wires) -> None:
    stream, peer = wires.tcp(buffers=4096)
    data = os.urandom(2_000_000)
    reading = spawn("peer", read_all, peer)
    stream.write(data, PATIENT)
    stream.finish_writing(PATIENT)
    assert reading.get() == data
    assert stream.sent == len(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_writes_any_kind_of_bytes(wires: Wires, kind: type) -> None:
    stream, peer = wires.unix()
    stream.write(kind(b"data"), PATIENT)
    assert peer.recv(10) == b"data"


def test_a_write_gives_up_on_a_reader_that_does_not_read(wires: Wires) -> None:
    stream, _ = wires.tcp(buffers=4096)
    with pytest.raises(DeadlineExceeded):
        stream.write(bytes(10_000_000), SOON)
    assert 0 < stream.sent < 10_000_000


def test_writing_to_a_peer_that_reset_raises(wires: Wires) -> None:
    stream, peer = wires.tcp()
    reset(peer)
    until(lambda: stream.peer() is not Peer.OPEN)
    with pytest.raises(OSError) as caught:
        stream.write(b"x", PATIENT)
    assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)


def test_half_close_ends_one_direction_only(wires: Wires) -> None:
    stream, peer = wires.tcp()
    stream.finish_writing(PATIENT)
    assert peer.recv(1) == b""
    peer.sendall(b"still here")
    assert stream.read_later(PATIENT) == b"still here"


def test_half_close_after_a_reset_is_no_error(wires: Wires) -> None:
    stream, peer = wires.tcp()
    reset(peer)
    with pytest.raises(ConnectionResetError):
        stream.read(PATIENT)
    stream.finish_writing(PATIENT)


def test_quiet_is_open_and_without_bytes(wires: Wires) -> None:
    stream, peer = wires.unix()
    assert stream.quiet()
    peer.sendall(b"x")
    assert not stream.quiet()
    assert stream.read(PATIENT) == b"x"  # looking has taken nothing
    assert stream.quiet()
    peer.close()
    assert not stream.quiet()


def test_peer_tells_open_from_ended_from_reset(wires: Wires) -> None:
    stream, peer = wires.unix()
    assert stream.peer() is Peer.OPEN
    peer.sendall(b"x")
    peer.close()
    assert stream.peer() is Peer.OPEN  # there is still something to read
    stream.read(PATIENT)
    assert stream.peer() is Peer.ENDED


def test_peer_tells_a_reset(wires: Wires) -> None:
    stream, peer = wires.tcp()
    reset(peer)
    assert stream.peer() is Peer.RESET


def test_an_interrupted_wait_raises_what_it_was_given(wires: Wires) -> None:
    stream, _ = wires.tcp()
    reading = spawn("reader", stream.read, PATIENT)
    until(lambda: stream.deadline < float("inf"))
    stream.interrupt(KeyError("stop"))
    with pytest.raises(KeyError):
        reading.get()


def test_an_interrupt_between_waits_is_raised_by_the_next(wires: Wires) -> None:
    stream, _ = wires.tcp()
    stream.interrupt(KeyError("first"))
    stream.interrupt(ValueError("second"))  # the first reason counts
    with pytest.raises(KeyError):
        stream.read(PATIENT)


def test_an_interrupt_reaches_reader_and_writer(wires: Wires) -> None:
    stream, _ = wires.tcp(buffers=4096)
    reading = spawn("reader", stream.read, PATIENT)
    writing = spawn("writer", stream.write, bytes(10_000_000), PATIENT)
    until(lambda: stream.sent > 0)
    stream.interrupt(KeyError("stop"))
    for task in (reading, writing):
        with pytest.raises(KeyError):
            task.get()


def test_reader_and_writer_work_at_once(wires: Wires) -> None:
    stream, peer = wires.tcp(buffers=4096)
    data = os.urandom(1_000_000)

    def echo() -> None:
        while block := peer.recv(READ_SIZE):
            peer.sendall(block)

    def read() -> bytes:
        got = bytearray()
        while len(got) < len(data):
            got += stream.read(PATIENT)
        return bytes(got)

    echoing, reading = spawn("echo", echo), spawn("reader", read)
    stream.write(data, PATIENT)
    assert reading.get() == data
    peer.shutdown(2)
    echoing.kill()


def test_close_is_an_orderly_end_and_can_be_repeated(wires: Wires) -> None:
    stream, peer = wires.tcp()
    stream.write(b"bye", PATIENT)
    stream.close()
    stream.close()
    assert stream.closed
    assert read_all(peer) == b"bye"


def test_reset_is_seen_as_an_error(wires: Wires) -> None:
    stream, peer = wires.tcp()
    stream.reset()
    with pytest.raises(ConnectionResetError):
        peer.recv(1)


def test_reset_after_the_peers_own_reset_just_closes(wires: Wires) -> None:
    stream, peer = wires.tcp()
    reset(peer)
    until(lambda: stream.peer() is not Peer.OPEN)
    stream.reset()
    assert stream.closed


def test_a_peer_that_always_has_more_does_not_keep_the_loop(wires: Wires) -> None:
    stream, _ = wires.unix()
    stream._recv = lambda size: b"more"
    others: list[str] = []
    spawn("somebody else", others.append, "had a turn")
    for _ in range(1000):
        assert stream.read(PATIENT) == b"more"
    assert others


def test_reading_and_writing_have_deadlines_of_their_own(wires: Wires) -> None:
    stream, _ = wires.tcp(buffers=4096)
    writing = spawn("writer", stream.write, bytes(10_000_000), PATIENT)
    until(lambda: stream.sent > 0)
    with pytest.raises(DeadlineExceeded):
        stream.read(SOON)
    assert not writing.ready()  # the reader's short patience is not the writer's
    writing.kill()


def test_repr_tells_the_state(wires: Wires) -> None:
    stream, _ = wires.tcp()
    assert repr(stream) == f"<Stream fd {stream.sock.fileno()} received=0 sent=0>"
    stream.close()
    assert repr(stream) == "<Stream closed received=0 sent=0>"
