"""A log's target may be slow, full, gone or moved: the sink never holds anyone up, never tears a line, and recovers."""

from __future__ import annotations

import _socket
import fcntl
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest

from charon.base.clock import FakeClock
from charon.telemetry.sink import FLUSH_BYTES, LogSink
from charon.telemetry.targets import FileTarget, StreamTarget, line_end


def numbered(count: int, size: int = 100) -> list[bytes]:
    return [f"{number:0{size - 1}d}\n".encode() for number in range(count)]


def drain(fd: int) -> bytes:
    """All that can be read from ``fd`` now."""
    os.set_blocking(fd, False)
    taken = b""
    try:
        while piece := os.read(fd, 65536):
            taken += piece
    except BlockingIOError:
        return taken
    return taken


def is_nonblocking(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As a full disk: a write beyond ``size`` is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass  # the test closed it


def test_lines_are_written_together_and_in_order(tmp_path: Path) -> None:
    sink = LogSink(str(tmp_path / "log"))
    for line in numbered(5):
        sink.write(line)
    assert (tmp_path / "log").read_bytes() == b""
    assert sink.flush()
    assert (tmp_path / "log").read_bytes() == b"".join(numbered(5))
    sink.close()


def test_a_waiting_line_is_written_by_the_loop(tmp_path: Path) -> None:
    sink = LogSink(str(tmp_path / "log"))
    sink.write(b"line\n")
    with gevent.Timeout(10):
        while sink.waiting:
            gevent.sleep(0.01)
    assert (tmp_path / "log").read_bytes() == b"line\n"
    sink.close()


def test_much_is_written_at_once(tmp_path: Path) -> None:
    sink = LogSink(str(tmp_path / "log"))
    lines = numbered(FLUSH_BYTES // 100 + 1)
    for line in lines:
        sink.write(line)
    assert sink.waiting == 0
    assert (tmp_path / "log").read_bytes() == b"".join(lines)
    sink.close()


def test_lines_that_are_made_later_keep_their_place(tmp_path: Path) -> None:
    sink = LogSink(str(tmp_path / "log"))
    wanted = numbered(1000)
    for number, line in enumerate(wanted):
        if number % 7:
            sink.write_later(bytes.upper, line)
        else:
            sink.write(line)
    sink.close()
    assert (tmp_path / "log").read_bytes() == b"".join(wanted)
    sink.write_later(bytes.upper, b"too late\n")
    assert sink.dropped == 1


def test_a_line_that_is_made_later_is_written_by_the_loop(tmp_path: Path) -> None:
    sink = LogSink(str(tmp_path / "log"))
    sink.write_later(bytes.upper, b"line\n")
    with gevent.Timeout(10):
        while not (tmp_path / "log").read_bytes():
            gevent.sleep(0.01)
    assert (tmp_path / "log").read_bytes() == b"LINE\n"
    sink.close()


def test_closing_writes_what_waits_and_later_lines_are_counted(tmp_path: Path) -> None:
    sink = LogSink(str(tmp_path / "log"))
    sink.write(b"last\n")
    sink.close()
    sink.close()
    sink.write(b"too late\n")
    assert (tmp_path / "log").read_bytes() == b"last\n"
    assert sink.dropped == 1


def test_a_new_file_is_not_for_everyone_and_an_old_one_is_continued(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        LogSink(str(tmp_path / "log")).close()
    finally:
        os.umask(umask)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640
    (tmp_path / "log").write_bytes(b"before\n")
    sink = LogSink(str(tmp_path / "log"))
    sink.write(b"after\n")
    sink.close()
    assert (tmp_path / "log").read_bytes() == b"before\nafter\n"


def test_a_path_that_cannot_be_opened_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        LogSink(str(tmp_path / "no" / "log"))


def test_without_standard_output_descriptor_1_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    sink = LogSink()
    sink.write(b"line\n")
    assert sink.flush()
    sink.close()
    assert sink.dropped == 0


# Rotation


def test_a_file_that_was_moved_away_is_noticed_within_a_second(tmp_path: Path) -> None:
    clock = FakeClock()
    log, old = tmp_path / "log", tmp_path / "log.1"
    sink = LogSink(str(log), clock=clock)
    sink.write(b"one\n")
    sink.flush()
    log.rename(old)
    sink.write(b"two\n")
    sink.flush()
    clock.advance(1.0)
    sink.write(b"three\n")
    sink.flush()
    assert old.read_bytes() == b"one\ntwo\n"
    assert log.read_bytes() == b"three\n"
    sink.close()


def test_a_file_that_was_deleted_or_replaced_is_noticed(tmp_path: Path) -> None:
    clock = FakeClock()
    log = tmp_path / "log"
    sink = LogSink(str(log), clock=clock)
    log.unlink()
    clock.advance(1.0)
    sink.write(b"one\n")
    sink.flush()
    assert log.read_bytes() == b"one\n"
    (tmp_path / "other").write_bytes(b"new\n")
    (tmp_path / "other").rename(log)
    clock.advance(1.0)
    sink.write(b"two\n")
    sink.flush()
    assert log.read_bytes() == b"new\ntwo\n"
    sink.close()


def test_reopening_on_request_sends_what_waits_to_the_new_file(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    sink = LogSink(str(log))
    sink.write(b"one\n")
    log.rename(old)
    sink.reopen()
    sink.close()
    assert old.read_bytes() == b""
    assert log.read_bytes() == b"one\n"


def test_while_the_new_file_cannot_be_opened_the_old_one_serves(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock()
    log, old = tmp_path / "log", tmp_path / "log.1"
    sink = LogSink(str(log), clock=clock)
    log.rename(old)
    log.mkdir()
    for line in (b"one\n", b"two\n"):
        clock.advance(1.0)
        sink.write(line)
        assert sink.flush()
    assert old.read_bytes() == b"one\ntwo\n"
    assert sink.errors == 2
    assert capfd.readouterr().err.count("cannot open the log") == 1
    log.rmdir()
    clock.advance(1.0)
    sink.write(b"three\n")
    sink.flush()
    assert log.read_bytes() == b"three\n"
    sink.close()


# Full disks


def test_a_full_disk_leaves_no_half_line_and_loses_none_when_there_is_room_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    sink = LogSink(str(log))
    lines = numbered(20)
    with file_size_limit(1050):
        for line in lines:
            sink.write(line)
        assert not sink.flush()
        assert not sink.flush()
        assert log.read_bytes() == b"".join(lines[:10])
    assert sink.flush()
    assert log.read_bytes() == b"".join(lines)
    assert sink.dropped == 0
    assert capfd.readouterr().err.count("cannot write the log") == 1
    sink.close()


def test_on_a_full_disk_another_writers_line_follows_a_whole_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first, second = LogSink(str(log)), LogSink(str(log))
    with file_size_limit(150):
        first.write(b"1" * 99 + b"\n")
        first.write(b"2" * 99 + b"\n")
        first.flush()
    second.write(b"3\n")
    second.flush()
    first.close()
    second.close()
    assert log.read_bytes() == b"1" * 99 + b"\n3\n" + b"2" * 99 + b"\n"


def test_what_finds_no_room_is_dropped_and_counted(tmp_path: Path) -> None:
    sink = LogSink("/dev/full", queue_bytes=1000)
    for line in numbered(15):
        sink.write(line)
    assert not sink.flush()
    assert (sink.dropped, sink.waiting) == (5, 1000)
    sink.close()
    assert (sink.dropped, sink.waiting) == (15, 0)


def test_closing_counts_what_was_tried_and_what_was_not_yet() -> None:
    sink = LogSink("/dev/full")
    sink.write(b"tried\n")
    sink.flush()
    sink.write(b"not yet\n")
    sink.write(b"not yet\n")
    sink.close()
    assert sink.dropped == 3


def test_a_write_that_is_cut_short_in_a_shared_description_is_continued(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        sink = LogSink(fd=out.fileno())
        for line in numbered(3):
            sink.write(line)
        with file_size_limit(150):
            assert not sink.flush()
        assert sink.flush()
        os.write(out.fileno(), b"another program\n")
        sink.close()
    assert (tmp_path / "out").read_bytes() == b"".join(numbered(3)) + b"another program\n"


def test_a_lock_that_a_stopped_process_holds_delays_but_does_not_silence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sink = LogSink(str(log))
    sink.write(b"line\n")
    with open(log, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert not sink.flush()
        tries = 1
        while not sink.flush():
            tries += 1
        assert tries < 10
    assert log.read_bytes() == b"line\n"
    sink.close()


# Pipes and sockets


def test_a_full_pipe_holds_nobody_up_and_goes_on_when_it_is_read(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(fd=writer, queue_bytes=200_000)
    lines = numbered(4000)
    for line in lines:
        sink.write(line)
    assert not sink.flush()
    assert sink.dropped > 0
    taken = drain(reader)
    while not sink.flush():
        taken += drain(reader)
    taken += drain(reader)
    kept = len(lines) - sink.dropped
    assert taken == b"".join(lines[:kept])
    assert not is_nonblocking(writer)
    sink.close()


def test_a_pipe_that_may_not_be_opened_anew_is_asked_before_each_write(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    target = StreamTarget(os.dup(writer), nonblocking=False)
    data = b"".join(numbered(1000))
    start = 0
    while count := target.put(data, start):
        start += count
    taken = drain(reader)
    assert taken == data[:start] and taken.endswith(b"\n")
    assert not is_nonblocking(writer)
    target.close()


def test_a_closed_pipe_is_survived_and_a_new_reader_gets_what_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    sink = LogSink(str(tmp_path / "fifo"))
    os.close(reader)
    sink.write(b"one\n")
    assert not sink.flush()
    assert sink.errors == 1
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert sink.flush()
    assert drain(reader) == b"one\n"
    sink.close()
    os.close(reader)


def test_closing_on_a_closed_pipe_counts_what_was_lost(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(fd=writer)
    os.close(reader)
    sink.write(b"one\n")
    sink.write(b"two\n")
    sink.close(wait=3600)
    assert sink.dropped == 2


def test_a_socket_is_written_without_changing_it() -> None:
    ours, theirs = _socket.socketpair()  # as systemd gives it, not a cooperative one
    sink = LogSink(fd=ours.fileno(), queue_bytes=10_000_000)
    lines = numbered(10_000)
    for line in lines:
        sink.write(line)
    assert not sink.flush()
    taken = drain(theirs.fileno())
    while not sink.flush():
        taken += drain(theirs.fileno())
    taken += drain(theirs.fileno())
    assert taken == b"".join(lines)
    assert not is_nonblocking(ours.fileno())
    sink.close()
    ours.send(b"still open")
    ours.close()
    theirs.close()


def test_a_closed_socket_is_survived() -> None:
    ours, theirs = socket.socketpair()
    sink = LogSink(fd=ours.fileno())
    theirs.close()
    sink.write(b"one\n")
    assert not sink.flush()
    sink.close()
    assert sink.dropped == 1
    ours.close()


def test_a_terminal_is_known(tmp_path: Path) -> None:
    master, slave = os.openpty()
    sink = LogSink(fd=slave)
    assert sink.is_terminal
    sink.write(b"shown\n")
    sink.close()
    assert drain(master) == b"shown\r\n"
    os.close(slave)
    os.close(master)
    assert not LogSink(str(tmp_path / "log")).is_terminal


@pytest.mark.parametrize(
    ("data", "start", "end"),
    [(b"ab\ncd\n", 0, 3), (b"ab\ncd\n", 3, 6), (b"abcdef\nx\n", 0, 7), (b"abcdefgh", 0, 8), (b"a\nb\nc\nd\n", 0, 4)],
)
def test_pieces_end_with_lines(data: bytes, start: int, end: int) -> None:
    assert line_end(data, start, 4) == end


def test_targets_stay_clear_of_the_standard_descriptors(tmp_path: Path) -> None:
    sink = LogSink(str(tmp_path / "log"))
    target = sink._target
    assert isinstance(target, FileTarget) and target.fd > 2
    assert not os.get_inheritable(target.fd)
    sink.close()
