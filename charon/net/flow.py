"""Bytes on their way from one stream to another, in whatever way costs least.

They are copied by recv and send. When reads keep bringing much the flow changes over to ``splice`` through a pipe
(splice(2)), which moves bulk data without bringing it into this process, and back when it gets small. Where one side is
TLS, copies it stays.
Trust: hands on whatever the source sends; nothing here looks at it.
"""

from __future__ import annotations

import os
import resource
from fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, fcntl
from typing import Final

from charon.net.stream import READ_SIZE, Stream

PIPE_SIZE: Final = 1 << 20
"""Bytes a pipe is asked to hold, and the most that one move takes."""

_SPARE_PIPES: Final = 16
_LARGE: Final = READ_SIZE // 4
"""Bytes of a read, or of a move, from which it is bulk: a splice then costs less than a copy."""

_LARGE_READS_TO_SPLICE: Final = 4
_SMALL_MOVES_TO_COPY: Final = 16
_MOVES_IN_A_ROW: Final = 8
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipes:
    """The pipes of this process: ``spare`` ones, all of them empty, and how many are ``open`` with those in use."""

    __slots__ = ("open", "spare")

    def __init__(self) -> None:
        self.open = 0
        self.spare: list[tuple[int, int]] = []

    def borrow(self) -> tuple[int, int] | None:
        """An empty pipe; None where there is none to be had, and bytes are to be copied."""
        if self.spare:
            return self.spare.pop()
        # Connections come first: pipes have at most an eighth of the descriptors.
        if self.open >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 16:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None  # no descriptors are left
        self.open += 1
        try:
            fcntl(pipe[1], F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # over the user's share of pipe memory (pipe(7)): what it has may do, in smaller steps
            if fcntl(pipe[1], F_GETPIPE_SZ) < READ_SIZE:
                self._close(pipe)
                return None
        return pipe

    def give_back(self, pipe: tuple[int, int], held: int) -> None:
        """Take ``pipe`` back. Only one that is empty may serve another pair; one that has ``held`` bytes is closed."""
        if held or len(self.spare) >= _SPARE_PIPES:
            self._close(pipe)
        else:
            self.spare.append(pipe)

    def _close(self, pipe: tuple[int, int]) -> None:
        self.open -= 1
        os.close(pipe[0])
        os.close(pipe[1])


pipes: Final = Pipes()


class Flow:
    """One direction between two streams: what :meth:`take` returned is for :meth:`give`, all of it, before the next.

    ``held`` is how many bytes are in the pipe: taken from the source, and not given to the target yet.
    """

    __slots__ = ("_pipe", "_splices", "_streak", "_turns", "held", "source", "target")

    def __init__(self, source: Stream, target: Stream, *, bulk: bool = False) -> None:
        """``bulk``: much is known to come, so that it begins with a pipe."""
        self.source = source
        self.target = target
        self.held = 0
        self._splices = source.splices and target.splices
        self._pipe: tuple[int, int] | None = None
        self._streak = 0
        self._turns = 0
        if bulk:
            self._borrow_pipe()

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
        if len(data) < _LARGE:
            self._streak = 0
        else:
            self._streak += 1
            if self._streak == _LARGE_READS_TO_SPLICE:
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
        if pipe is not None:
            pipes.give_back(pipe, self.held)

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
        if count < _LARGE:
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
        if self._splices:
            self._pipe = pipes.borrow()  # where there is none it is not asked for again in this run of large reads
        if self._pipe is not None:
            self._streak = _SMALL_MOVES_TO_COPY
