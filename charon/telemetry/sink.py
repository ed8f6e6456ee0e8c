"""Where log lines go: a bounded queue in front of standard output or a file.

Each process writes for itself; several share one file or pipe. Writing is queued and cheap, and no state of the
target (full disk, stuck or closed pipe) ever holds up the caller: what cannot be written waits, what finds no room is
counted in ``dropped``, and the sink goes on by itself when the target takes bytes again.

A sink belongs to the thread of its loop. Nothing in it switches greenlets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final

import gevent

from charon.base.clock import Clock, SystemClock
from charon.telemetry.targets import PIPE_BUF, Target, adopt, open_path, writable

MAX_LINE: Final = PIPE_BUF
"""The longest line in bytes, its line feed included, that no kind of target can tear."""

FLUSH_SECONDS: Final = 0.1
FLUSH_BYTES: Final = 32 * 1024
_TOGETHER: Final = 64
"""Lines that are made in one go, at most: a fraction of a millisecond."""
QUEUE_BYTES: Final = 4 * 1024 * 1024
_RETRY_FIRST: Final = 0.01
_RETRY_LAST: Final = 1.0
_LOOK_SECONDS: Final = 1.0


class LogSink:
    """Lines on their way to ``path``, or to standard output when it is None.

    ``dropped`` counts lines that were given up, ``errors`` failed opens and writes; both only grow. ``queue_bytes``
    bounds what waits. Without a path, ``fd`` is written to instead of descriptor 1. The constructor raises OSError
    when the target cannot be opened.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        fd: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self.path = path
        self.dropped = 0
        self.errors = 0
        self._inherited = 1 if fd is None else fd
        self._target: Target | None = self._open()
        self._limit = queue_bytes
        # Lines are copied into one buffer, not kept: hundreds of small live objects would make the next ones dearer.
        self._queue = bytearray()
        self._later: list[tuple[Callable[[Any], bytes], Any]] = []  # lines that are still to be made, behind the queue
        self._data = b""  # taken from the queue, written up to _start
        self._start = 0
        self._waiting = 0  # bytes in _queue and in the rest of _data
        self._timer: Any = None
        self._retry = 0.0  # seconds to the next try; 0 while the target takes bytes
        self._clock = clock or SystemClock()
        self._looked = self._clock.monotonic()
        self._broken: set[str] = set()  # what was complained about and has not worked since
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "held up" if self._retry else "open"
        return f"<LogSink {self.path or 'stdout'} {state} waiting={self._waiting} dropped={self.dropped}>"

    @property
    def is_terminal(self) -> bool:
        return self._target is not None and os.isatty(self._target.fd)

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._waiting

    def write(self, line: bytes) -> None:
        """Queue one line, which ends with its only line feed and is at most ``MAX_LINE`` bytes long."""
        if self._later:
            self._make_lines()
        waiting = self._waiting + len(line)
        if waiting > self._limit or self._closed:
            self.dropped += 1
            return
        self._waiting = waiting
        self._queue += line
        if waiting > FLUSH_BYTES:
            if not self._retry:
                self.flush()
        elif self._timer is None:
            self._arm(FLUSH_SECONDS)

    def write_later(self, make: Callable[[Any], bytes], record: Any) -> None:
        """As :meth:`write`, of the line that ``make(record)`` gives when it is needed. Many lines made in a row cost a
        fraction of what they would each between two pieces of other work, which leaves nothing in the caches for them.
        """
        if self._closed:
            self.dropped += 1
            return
        self._later.append((make, record))
        if len(self._later) >= _TOGETHER:
            self._make_lines()
        elif self._timer is None:
            self._arm(FLUSH_SECONDS)

    def _make_lines(self) -> None:
        later, self._later = self._later, []
        for make, record in later:
            self.write(make(record))

    def flush(self) -> bool:
        """Hand on what waits; whether all of it went. Never waits, and tries again by itself when it did not go."""
        self._look_after_path()
        written = False
        try:
            while self._start < len(self._data) or self._take():
                count = self._target.put(self._data, self._start) if self._target is not None else 0
                if not count:
                    break
                written = True
                self._start += count
                self._waiting -= count
        except OSError as error:
            self.errors += 1
            self._complain("write", error)
        else:
            if written:
                self._broken.discard("write")
        if not self._waiting:
            self._retry = 0.0
            return True
        # Something is left: soon again while it moves, more and more rarely while it does not.
        self._retry = _RETRY_FIRST if written or not self._retry else min(self._retry * 2, _RETRY_LAST)
        self._arm(self._retry)
        return False

    def reopen(self) -> None:
        """Open the file anew, as after a rotation; what waits goes to the new one. Does nothing for standard output."""
        if self.path is None or self._closed:
            return
        self._looked = self._clock.monotonic()
        try:
            fresh = self._open()
        except OSError as error:
            self.errors += 1
            self._complain("open", error)
            return
        self._broken.discard("open")
        old, self._target = self._target, fresh
        if old is not None:
            self._finish_cut_line(old)
            old.close()

    def close(self, wait: float = 0.5) -> None:
        """Write what waits, count as dropped what is not taken within ``wait`` seconds, let go of the descriptor.

        A target that fails, rather than being busy, is not waited for.
        """
        if self._closed:
            return
        deadline = self._clock.monotonic() + wait
        while not self.flush() and "write" not in self._broken and self._clock.monotonic() < deadline:
            gevent.sleep(_RETRY_FIRST)
        self._closed = True
        self._disarm()
        self.dropped += self._queue.count(b"\n") + self._data.count(b"\n", self._start)
        self._queue.clear()
        self._data, self._start, self._waiting = b"", 0, 0
        if self._target is not None:
            self._target.close()
            self._target = None

    # How it works

    def _open(self) -> Target:
        if self.path is not None:
            return open_path(self.path)
        if self._inherited == 1 and sys.__stdout__ is None:  # started with it closed; another file may be 1 by now
            return open_path(os.devnull)
        return adopt(self._inherited)

    def _take(self) -> bool:
        """Make one block of the queue; whether there was anything in it."""
        if self._later:
            self._make_lines()
        self._data, self._start = bytes(self._queue), 0
        self._queue.clear()
        return bool(self._data)

    def _look_after_path(self) -> None:
        """Once a second at most: the file may have been moved away or deleted."""
        if self.path is None or self._target is None:
            return
        now = self._clock.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            self.reopen()
        except OSError as error:
            self.errors += 1
            self._complain("open", error)
        else:
            if (status.st_dev, status.st_ino) != self._target.identity:
                self.reopen()

    def _finish_cut_line(self, old: Target) -> None:
        """A line that was begun in ``old`` goes on there, or is given up: its rest must not open the new file."""
        if not self._start or self._start >= len(self._data) or self._data[self._start - 1] == 0x0A:
            return
        end = self._data.find(b"\n", self._start) + 1
        rest = self._data[self._start : end]
        try:
            whole = old.put(rest, 0) == len(rest)
        except OSError:
            self.errors += 1
            whole = False
        if not whole:
            self.dropped += 1
        self._waiting -= len(rest)
        self._start = end

    def _arm(self, seconds: float) -> None:
        self._disarm()
        # ref=False: waiting log lines alone do not keep a program running; close() writes them.
        self._timer = gevent.get_hub().loop.timer(seconds, ref=False)
        self._timer.start(self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _on_timer(self) -> None:
        self._disarm()
        self.flush()

    def _complain(self, what: str, error: OSError) -> None:
        """Once per incident, and only if standard error takes it at once."""
        if what in self._broken:
            return
        self._broken.add(what)
        text = f"charon: cannot {what} the log {self.path or 'on standard output'}: {error.strerror or error}\n"
        try:
            if writable(2):
                os.write(2, text.encode("utf-8", "backslashreplace")[:PIPE_BUF])
        except OSError:
            self.errors += 1  # standard error is closed too: the counters are all that is left
