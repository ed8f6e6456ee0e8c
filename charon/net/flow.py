"""Bytes on their way from one stream to another, in whatever way costs least.

They are copied by recv and send. When reads keep filling the buffer the flow changes over to ``splice`` through a pipe
(splice(2)), which moves bulk data without bringing it into this process, and back when it gets small. Where one side is
TLS, copies it stays.
Trust: hands on whatever the source sends; nothing here looks at it.
"""

from __future__ import annotations

import os
from fcntl import F_SETPIPE_SZ, fcntl
from typing import Final

from charon.net.stream import READ_SIZE, Stream

PIPE_SIZE: Final = 1 << 20
"""Bytes a pipe is asked to hold, and the most that one move takes."""

_SPARE_PIPES: Final = 16
_FULL_READS_TO_SPLICE: Final = 4
_SMALL_MOVES_TO_COPY: Final = 16
_MOVES_IN_A_ROW: Final = 8
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_spare: list[tuple[int, int]] = []


def _new_pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl(pipe[1], F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # over the user's share of pipe memory (pipe(7)): the default size works as well, in smaller steps
    return pipe


class Flow:
    """One direction between two streams: what :meth:`take` returned is for :meth:`give`, all of it, before the next.

    ``held`` is how many bytes are in the pipe: taken from the source, and not given to the target yet.
    """

    __slots__ = ("_pipe", "_splices", "_streak", "_turns", "held", "source", "target")

    def __init__(self, source: Stream, target: Stream, *, bulk: bool = False) -> None:
        """``bulk``: much is known to come, so that the first read that fills the buffer is enough to change over."""
        self.source = source
        self.target = target
        self.held = 0
        self._splices = source.splices and target.splices
        self._pipe: tuple[int, int] | None = None
        self._streak = _FULL_READS_TO_SPLICE - 1 if bulk else 0
        self._turns = 0

    def take(self, patience: float, most: int = PIPE_SIZE) -> bytes | int:
        """At most ``most`` bytes, as soon as there are any: themselves, or how many went into the pipe. ``b""`` or 0 at
        the end of the stream.

        Raises DeadlineExceeded (nothing was taken then), OSError, or the error given to the source's ``interrupt``.
        """
        if self._pipe is not None:
            return self._fill(self._pipe, patience, most)
        size = min(most, READ_SIZE)
        if self._streak:
            data = self.source.read(patience, size)
        else:  # after a part-filled read nothing more is there yet: wait first
            data = self.source.read_later(patience, size)
        if len(data) < READ_SIZE:
            self._streak = 0
        else:
            self._streak += 1
            if self._streak == _FULL_READS_TO_SPLICE and self._splices:
                self._borrow_pipe()
        return data

    def give(self, data: bytes | int, patience: float) -> None:
        """Send what was taken; each wait for room lasts at most ``patience`` seconds.

        Raises DeadlineExceeded, OSError, or the error given to the target's ``interrupt``.
        """
        if isinstance(data, int):
            if self._pipe is not None:
                self._empty(self._pipe, patience)
        elif data:
            self.target.write(data, patience)

    def close(self) -> None:
        """Give the pipe back, if there is one. The streams stay as they are."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        # Only a pipe known to be empty may serve another pair; one left in the middle of a move is closed.
        if not self.held and len(_spare) < _SPARE_PIPES:
            _spare.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])

    def _fill(self, pipe: tuple[int, int], patience: float, most: int) -> int:
        source = self.source
        size = min(most, PIPE_SIZE)
        while True:
            try:
                count = os.splice(source.sock.fileno(), pipe[1], size, flags=_FLAGS)
            except BlockingIOError:
                source.read_ready(patience)
                continue
            break
        source.received += count
        self.held = count  # before anything else can happen: a pipe that holds bytes must never serve another pair
        self._turns += 1
        if self._turns == _MOVES_IN_A_ROW:
            self._turns = 0
            source.give_way()
        if count < READ_SIZE:
            self._streak -= 1
        else:
            self._streak = _SMALL_MOVES_TO_COPY
        return count

    def _empty(self, pipe: tuple[int, int], patience: float) -> None:
        target = self.target
        while self.held:
            try:
                moved = os.splice(pipe[0], target.sock.fileno(), self.held, flags=_FLAGS)
            except BlockingIOError:
                target.write_ready(patience)
                continue
            target.sent += moved
            self.held -= moved
        if self._streak <= 0:
            self.close()
            self._streak = 0

    def _borrow_pipe(self) -> None:
        try:
            self._pipe = _spare.pop() if _spare else _new_pipe()
        except OSError:
            return  # no descriptors left for a pipe: go on copying, and do not ask again in this run of full reads
        self._streak = _SMALL_MOVES_TO_COPY
