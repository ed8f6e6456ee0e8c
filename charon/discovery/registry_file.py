"""The registry file as a source: every way in which a file can change, one way of noticing it.

The file is looked at ten times a second, through its path, and its identity compared: the real path, device, inode,
size, and both times. That one mechanism sees an edit in place, a rename over the file, a swapped symlink (of the file
or of any folder above it), deletion, return, and a first appearance, on every file system. inotify would answer a
little sooner, but sees only what the watched inode's own machine does to it, runs out of watches, and has to be moved
by hand when a folder above is swapped; a poll would be needed beside it all the same.

A changed file is left alone until it has held still for a moment, so that a writer is not caught half-way. Looking,
reading and parsing are done in a thread of the hub's pool: a large file or a hung file system delays nobody else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import gevent
from gevent import Greenlet
from gevent.lock import BoundedSemaphore

from charon.base.clock import Clock, SystemClock
from charon.base.errors import ConfigError
from charon.base.names import Event
from charon.config.registry import Registry, RegistryReader
from charon.discovery.source import EventLog, OnChange, Services, Spawn

NAMES_IN_EVENT = 20
"""How many added or removed names one event spells out; the counts are always complete."""

Identity = tuple[str, int, int, int, int, int] | None
"""What tells one state of the file from the next; None when there is no file to be seen."""

_UNSURE: Identity = ("", 0, 0, 0, 0, 0)
"""Equal to no file's identity: what was read may be torn, so the next look reads again."""

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
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


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One attempt to read the file. ``services`` is None when it failed, or when the bytes are those in force."""

    digest: bytes | None
    services: Services | None
    problems: tuple[str, ...] = ()


def read(path: Path, digest_in_force: bytes | None, in_force: Services, load: Callable[[Path], Registry]) -> _Loaded:
    """Read and parse the file, unless its bytes are those in force. Every failure comes back as ``problems``.

    What is as it is ``in_force`` is the very same object, so that all that follows sees at a glance what has changed.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return _Loaded(None, None, (f"{path}: is not a regular file",))
        digest = hashlib.blake2b(path.read_bytes()).digest()
    except OSError as error:
        return _Loaded(None, None, (f"{path}: cannot be read: {error.strerror}",))
    if digest == digest_in_force:
        return _Loaded(digest, None)
    try:
        services = load(path).services
        kept = ((name, targets, in_force.get(name)) for name, targets in services.items())
        return _Loaded(digest, {name: before if before == targets else targets for name, targets, before in kept})
    except ConfigError as error:
        return _Loaded(digest, None, tuple(error.problems))
    except Exception as error:  # noqa: BLE001 - as loud as any broken file, and the watch must go on
        return _Loaded(digest, None, (f"{path}: {type(error).__name__}: {error}",))


class RegistryFile:
    """Services from a YAML file.

    ``last_reload_successful`` and ``last_success_time`` (seconds since the Unix epoch, 0.0 before the first success)
    are for metrics; ``problems`` holds the mistakes of the file as it stands now, empty when it is in force.
    """

    def __init__(
        self,
        path: str | Path,
        log: EventLog,
        spawn: Spawn,
        *,
        load: Callable[[Path], Registry] | None = None,
        clock: Clock | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.name = f"registry:{path}"
        self.path = Path(path)
        self.last_reload_successful = False
        self.last_success_time = 0.0
        self.problems: tuple[str, ...] = ()
        self._log = log
        self._spawn = spawn
        self._load = load or RegistryReader()
        self._clock = clock or SystemClock()
        self._pace = pace or Pace()
        self._services: Services = {}
        self._digest: bytes | None = None
        self._reported: tuple[bytes | None, tuple[str, ...]] | None = None
        self._seen: Identity = None
        self._on_change: OnChange | None = None
        self._greenlet: Greenlet[..., object] | None = None
        self._loading = BoundedSemaphore(1)

    def __repr__(self) -> str:
        state = "ok" if self.last_reload_successful else "failed"
        return f"<RegistryFile {self.path} services={len(self._services)} last_reload={state}>"

    def services(self) -> Services:
        return self._services

    def start(self, on_change: OnChange) -> None:
        """Read the file once, before this returns (a failure is an event, not an exception), then watch it."""
        self._on_change = on_change
        self._seen = _in_thread(observe, self.path)
        self._take(first=True)
        self._greenlet = self._spawn(f"registry-watch:{self.path}", self._watch)

    def stop(self) -> None:
        self._on_change = None
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def reload(self) -> bool:
        """Read the file now, whether it has changed or not; true when it is good and in force on return."""
        self._seen = _in_thread(observe, self.path)
        self._take()
        return self.last_reload_successful

    def _watch(self) -> None:
        while True:
            gevent.sleep(self._pace.poll)
            now = _in_thread(observe, self.path)
            if now == self._seen:
                continue
            self._seen, settled = self._settle(now)
            self._take()
            if not settled or _in_thread(observe, self.path) != self._seen:
                self._seen = _UNSURE

    def _settle(self, identity: Identity) -> tuple[Identity, bool]:
        """Wait until the file holds still; says whether it did within the limit."""
        limit = self._clock.monotonic() + self._pace.settle_limit
        while self._clock.monotonic() < limit:
            gevent.sleep(self._pace.settle)
            now = _in_thread(observe, self.path)
            if now == identity:
                return now, True
            identity = now
        return identity, False

    def _take(self, first: bool = False) -> None:
        """Read the file and put it in force if it is good."""
        with self._loading:
            loaded = _in_thread(read, self.path, self._digest, self._services, self._load)
            if loaded.problems:
                self._fail(loaded)
            else:
                self._succeed(loaded, first)

    def _fail(self, loaded: _Loaded) -> None:
        self.last_reload_successful = False
        self.problems = loaded.problems
        if self._reported == (loaded.digest, loaded.problems):
            return
        self._reported = (loaded.digest, loaded.problems)
        self._log.event(
            "error",
            Event.REGISTRY_RELOAD_FAILED,
            file=str(self.path),
            problems=list(loaded.problems),
            services_kept=len(self._services),
        )

    def _succeed(self, loaded: _Loaded, first: bool) -> None:
        recovered = not self.last_reload_successful
        self.last_reload_successful = True
        self.last_success_time = self._clock.wall()
        self.problems = ()
        self._reported = None
        before, after = self._services, self._services
        if loaded.services is not None:
            self._digest = loaded.digest
            after = self._services = loaded.services
        elif not recovered:
            return
        if first:
            return
        self._report(before, after)
        if before != after and self._on_change is not None:
            self._on_change()

    def _report(self, before: Services, after: Services) -> None:
        added = [name for name in after if name not in before]
        removed = [name for name in before if name not in after]
        changed = sum(1 for name, targets in after.items() if name in before and before[name] != targets)
        self._log.event(
            "info",
            Event.REGISTRY_RELOADED,
            file=str(self.path),
            services=len(after),
            endpoints=sum(len(targets) for targets in after.values()),
            added=added[:NAMES_IN_EVENT],
            removed=removed[:NAMES_IN_EVENT],
            added_count=len(added),
            removed_count=len(removed),
            changed_count=changed,
        )
