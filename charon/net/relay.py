"""Joining two streams: a copier for each direction, each with its half-close, until both have ended.

Bytes are copied by recv and send. A direction whose reads keep filling the buffer changes over to ``splice`` through a
pipe (splice(2)), which moves bulk data without bringing it into this process, and back when the flow gets small. Where
one side is TLS, copies it stays.
Trust: hands on whatever the peers send; nothing here looks at it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fcntl import F_SETPIPE_SZ, fcntl
from time import monotonic
from typing import TypeVar

from charon.base.errors import CLIENT_ABORT, IDLE_TIMEOUT, UPSTREAM_RESET, Reason
from charon.net.stream import READ_SIZE, DeadlineExceeded, Stream
from charon.net.tasks import spawn

PIPE_SIZE = 1 << 20
"""Bytes a splice pipe is asked to hold; the kernel may allow an unprivileged process less."""

_SPARE_PIPES = 16
_FULL_READS_TO_SPLICE = 4
_SMALL_MOVES_TO_COPY = 16
_MOVES_IN_A_ROW = 8
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_T = TypeVar("_T")

_spare: list[tuple[int, int]] = []


def _new_pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl(pipe[1], F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # over the user's share of pipe memory (pipe(7)): the default size works as well, in smaller steps
    return pipe


class RelayEnded(Exception):
    """Thrown into the other direction's wait when one direction has failed."""


class Relay:
    """Two streams being joined.

    When :meth:`run` returns, ``reason`` says why it ended early, or is None when both sides simply finished.
    """

    __slots__ = ("client", "detail", "early", "idle", "last_byte", "reason", "splices", "upstream")

    def __init__(self, client: Stream, upstream: Stream, idle: float, early: bytes = b"") -> None:
        """``early`` are bytes of the client's that were read before; they go first."""
        self.early = early
        self.client = client
        self.upstream = upstream
        self.idle = idle
        self.splices = client.splices and upstream.splices
        self.reason: Reason | None = None
        self.detail = ""
        self.last_byte = monotonic()

    def run(self, name: str) -> None:
        """Copy until both directions have ended, one has failed, or nothing moved either way for ``idle`` seconds.

        Uses the calling greenlet for one direction and another one, called ``name``, for the other. Closes neither
        stream. Does not raise for anything that the peers do.
        """
        copier = spawn(name, _Direction(self, self.client, self.upstream, CLIENT_ABORT, UPSTREAM_RESET).run)
        try:
            _Direction(self, self.upstream, self.client, UPSTREAM_RESET, CLIENT_ABORT).run()
            copier.join()
        finally:
            copier.kill()

    def notice_departure(self) -> None:
        """End when the client has reset while the upstream does not read: no copier is looking at it then.

        An upstream that resets is not looked for: what it sent before is the client's, and is passed on first.
        """
        if self.upstream.write_stalls() and self.client.reset_by_peer():
            self.end(CLIENT_ABORT, "reset while the upstream does not read")

    def end(self, reason: Reason, detail: str) -> None:
        """Note why the relay ends (the first reason counts) and stop both directions."""
        if self.reason is None:
            self.reason = reason
            self.detail = detail
        self.client.interrupt(RelayEnded())
        self.upstream.interrupt(RelayEnded())


class _Direction:
    """One direction. ``source_lost`` and ``target_lost`` are the reasons for losing either end."""

    __slots__ = ("held", "pipe", "relay", "source", "source_lost", "streak", "target", "target_lost", "turns")

    def __init__(self, relay: Relay, source: Stream, target: Stream, source_lost: Reason, target_lost: Reason) -> None:
        self.relay = relay
        self.source = source
        self.target = target
        self.source_lost = source_lost
        self.target_lost = target_lost
        self.pipe: tuple[int, int] | None = None
        self.held = 0  # bytes in the pipe
        self.streak = 0
        self.turns = 0

    def run(self) -> None:
        lost = self.source_lost
        try:
            if self.relay.early and self.source is self.relay.client:
                lost = self.target_lost
                self._give(self.relay.early)
            while True:
                lost = self.source_lost
                data = self._take()
                if not data:
                    break
                lost = self.target_lost
                self._give(data)
                self.relay.last_byte = monotonic()
            lost = self.target_lost
            self.target.finish_writing(self.relay.idle)
        except DeadlineExceeded:
            self.relay.end(IDLE_TIMEOUT, f"nothing moved for {self.relay.idle:g} s")
        except OSError as error:
            self.relay.end(lost, os.strerror(error.errno or 0))
        except RelayEnded:
            pass  # the other direction has failed and has said why
        finally:
            self._return_pipe()

    def _take(self) -> bytes | int:
        """Bytes read, or the number of bytes spliced into the pipe; nothing at the end of the stream."""
        if self.pipe is not None:
            return self._splice_in()
        if self.streak:
            data = self._unless_other_moves(self.source.read)
        else:  # after a part-filled read nothing more is there yet: wait first
            data = self._unless_other_moves(self.source.read_later)
        if len(data) < READ_SIZE:
            self.streak = 0
        else:
            self.streak += 1
            if self.streak == _FULL_READS_TO_SPLICE and self.relay.splices:
                self._borrow_pipe()
        return data

    def _give(self, data: bytes | int) -> None:
        if isinstance(data, int):
            self._splice_out()
        else:
            self.target.write(data, self.relay.idle)

    def _unless_other_moves(self, wait: Callable[[float], _T]) -> _T:
        """Wait for up to ``idle`` seconds in which neither direction moves."""
        relay = self.relay
        while True:
            try:
                return wait(relay.idle)
            except DeadlineExceeded:
                if monotonic() - relay.last_byte >= relay.idle:
                    raise

    def _splice_in(self) -> int:
        assert self.pipe is not None
        source = self.source
        while True:
            try:
                count = os.splice(source.sock.fileno(), self.pipe[1], PIPE_SIZE, flags=_FLAGS)
            except BlockingIOError:
                self._unless_other_moves(source.read_ready)
                continue
            break
        source.received += count
        self.held = count  # before anything else can happen: a pipe that holds bytes must never serve another pair
        self.turns += 1
        if self.turns == _MOVES_IN_A_ROW:
            self.turns = 0
            source.give_way()
        if count < READ_SIZE:
            self.streak -= 1
        else:
            self.streak = _SMALL_MOVES_TO_COPY
        return count

    def _splice_out(self) -> None:
        assert self.pipe is not None
        target = self.target
        while self.held:
            try:
                moved = os.splice(self.pipe[0], target.sock.fileno(), self.held, flags=_FLAGS)
            except BlockingIOError:
                target.write_ready(self.relay.idle)
                continue
            target.sent += moved
            self.held -= moved
        if self.streak <= 0:
            self._return_pipe()
            self.streak = 0

    def _borrow_pipe(self) -> None:
        try:
            self.pipe = _spare.pop() if _spare else _new_pipe()
        except OSError:
            return  # no descriptors left for a pipe: go on copying, and do not ask again in this run of full reads
        self.streak = _SMALL_MOVES_TO_COPY

    def _return_pipe(self) -> None:
        pipe, self.pipe = self.pipe, None
        if pipe is None:
            return
        # Only a pipe known to be empty may serve another pair; one left in the middle of a move is closed.
        if not self.held and len(_spare) < _SPARE_PIPES:
            _spare.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])
