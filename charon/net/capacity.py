"""Whether this process can take another client connection: by their number, by descriptors, by memory.

What cannot be taken now waits in the kernel. Descriptors are looked at without counting them: the kernel always gives
the lowest number that is free, so that a high number says how many there are.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
from collections.abc import Callable
from time import monotonic
from typing import Final

CONNECTIONS: Final = "connections"
DESCRIPTORS: Final = "descriptors"
MEMORY: Final = "memory"

_SMALLEST_RESERVE: Final = 16
_LARGEST_RESERVE: Final = 4096


def raise_descriptor_limit() -> int:
    """Take all the descriptors that this process may have. Returns how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft  # a sandbox may forbid it; what there is will do
    return hard


def reserve(limit: int) -> int:
    """Of ``limit`` descriptors, how many are kept for connections to endpoints, for pipes and for the log."""
    return max(_SMALLEST_RESERVE, min(limit // 4, _LARGEST_RESERVE))


class Capacity:
    """The room of one process, which all its listeners share.

    ``open`` is the number of client connections, ``limit`` how many there may be; ``descriptors`` is the limit of
    those, and ``batch`` how many connections may be accepted in a row: each may want another descriptor at once.
    ``paused`` says what there is no room for, and was last so at ``paused_at``; ``pauses`` counts by that.
    """

    def __init__(self, descriptors: int) -> None:
        self.open = 0
        self.limit = math.inf
        self.paused: str | None = None
        self.paused_at = 0.0
        self.pauses: dict[str, int] = {}
        self._held = False
        self._near = False  # so close to the last descriptor that each accept has to be weighed
        kept = reserve(descriptors)
        self.batch = kept // 2
        self._last = descriptors - kept - 1
        self._waiting: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"<Capacity {self.open} of {self.limit:g} paused={self.paused}>"

    def full(self, on_room: Callable[[], None]) -> bool:
        """Whether no connection can be taken now; ``on_room`` is then called once when one may be."""
        cause = self._cause()
        if cause is None:
            self._end_pause()
            return False
        if self.paused is None:
            self.pauses[cause] = self.pauses.get(cause, 0) + 1
        self.paused = cause
        self._waiting.add(on_room)
        return True

    def _end_pause(self) -> None:
        if self.paused is not None:
            self.paused = None
            self.paused_at = monotonic()

    def _cause(self) -> str | None:
        if self._held:
            return MEMORY
        if self.open >= self.limit:
            return CONNECTIONS
        if self._near and _lowest_free() > self._last:
            return DESCRIPTORS
        return None

    def entered(self) -> None:
        """A connection is open."""
        self.open += 1

    def left(self) -> None:
        """A connection has ended."""
        self.open -= 1
        self._wake()

    def accepted(self, fd: int) -> None:
        """``accept`` gave this descriptor, so that all lower ones are in use."""
        if fd >= self._last:
            self._near = True

    def set_limit(self, limit: float) -> None:
        """So many connections may be open from now on; what is open stays."""
        self.limit = limit
        self._wake()

    def hold(self, held: bool) -> None:
        """Take no connection for want of memory, or do so again."""
        if held != self._held:
            self._held = held
            self._wake()

    def look(self) -> None:
        """Called about once a second: room may have come where no connection has ended."""
        if self._near and _lowest_free() < self._last and len(os.listdir("/proc/self/fd")) < 0.9 * self._last:
            self._near = False
        self._wake()

    def _wake(self) -> None:
        if not self._waiting:
            return
        cause = self._cause()
        if cause is not None:
            self.paused = cause
            return
        self._end_pause()
        waiting, self._waiting = self._waiting, set()
        for on_room in waiting:
            on_room()


def _lowest_free() -> float:
    """The descriptor that the next accept would give."""
    try:
        fd = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 0)
    except OSError:
        return math.inf
    os.close(fd)
    return fd
