"""Watching a file: every way in which it can change, one way of noticing it.

The file is looked at ten times a second, through its path, and its identity compared: the real path, device, inode,
size, and both times. That one mechanism sees an edit in place, a rename over the file, a swapped symlink (of the file
or of any folder above it), deletion, return, and a first appearance, on every file system. inotify would answer a
little sooner, but sees only what the watched inode's own machine does to it, runs out of watches, and has to be moved
by hand when a folder above is swapped; a poll would be needed beside it all the same.

A changed file is left alone until it has held still for a moment, so that a writer is not caught half-way. Looking is
done in a thread of the hub's pool: a hung file system delays nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import gevent
from gevent import Greenlet

from charon.base.clock import Clock
from charon.discovery.source import Spawn

Identity = tuple[str, int, int, int, int, int] | None
"""What tells one state of the file from the next; None when there is no file to be seen."""

_UNSURE: Identity = ("", 0, 0, 0, 0, 0)
"""Equal to no file's identity: what was read may be torn, so the next look reads again."""

P = ParamSpec("P")
T = TypeVar("T")


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a thread of the pool, and wait for it."""
    result: T = gevent.get_hub().threadpool.apply(function, args, kwargs)
    return result


def observe(path: Path) -> Identity:
    """The identity of the file that ``path`` leads to at this moment."""
    try:
        real = os.path.realpath(path)
        status = os.stat(real)
    except OSError:
        return None
    return (real, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. A change takes effect at most ``poll + settle_limit`` after it, plus the time to read the file.

    ``settle`` is how long a changed file must hold still before it is read. A file that never does is read after
    ``settle_limit`` all the same, and looked at again right after.
    """

    poll: float = 0.1
    settle: float = 0.1
    settle_limit: float = 0.4


class FileWatch:
    """Calls ``on_change`` whenever the file has changed, in a greenlet called ``name``."""

    def __init__(
        self, path: Path, name: str, spawn: Spawn, on_change: Callable[[], None], clock: Clock, pace: Pace | None = None
    ) -> None:
        self._path = path
        self._name = name
        self._spawn = spawn
        self._on_change = on_change
        self._clock = clock
        self._pace = pace or Pace()
        self._seen: Identity = None
        self._greenlet: Greenlet[..., object] | None = None

    def look(self) -> None:
        """Take the file as it is now for known."""
        self._seen = in_thread(observe, self._path)

    def start(self) -> None:
        """Watch from now on."""
        self._greenlet = self._spawn(self._name, self._watch)

    def stop(self) -> None:
        """Watch no more."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _watch(self) -> None:
        while True:
            gevent.sleep(self._pace.poll)
            now = in_thread(observe, self._path)
            if now == self._seen:
                continue
            self._seen, settled = self._settle(now)
            self._on_change()
            if not settled or in_thread(observe, self._path) != self._seen:
                self._seen = _UNSURE

    def _settle(self, identity: Identity) -> tuple[Identity, bool]:
        """Wait until the file holds still; says whether it did within the limit."""
        limit = self._clock.monotonic() + self._pace.settle_limit
        while self._clock.monotonic() < limit:
            gevent.sleep(self._pace.settle)
            now = in_thread(observe, self._path)
            if now == identity:
                return now, True
            identity = now
        return identity, False
