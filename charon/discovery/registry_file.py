"""The registry file as a source. Reading and parsing are done in a thread: a large file delays nobody else."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gevent.lock import BoundedSemaphore

from charon.base.clock import Clock, SystemClock
from charon.base.errors import ConfigError
from charon.base.names import Event
from charon.config.registry import Registry, RegistryReader
from charon.discovery.file_watch import FileWatch, Pace, in_thread
from charon.discovery.source import EventLog, OnChange, Services, Spawn

NAMES_IN_EVENT = 20
"""How many added or removed names one event spells out; the counts are always complete."""


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
        self._load = load or RegistryReader()
        self._clock = clock or SystemClock()
        self._services: Services = {}
        self._digest: bytes | None = None
        self._reported: tuple[bytes | None, tuple[str, ...]] | None = None
        self._on_change: OnChange | None = None
        self._watch = FileWatch(self.path, f"registry-watch:{path}", spawn, self._take, self._clock, pace)
        self._loading = BoundedSemaphore(1)

    def __repr__(self) -> str:
        state = "ok" if self.last_reload_successful else "failed"
        return f"<RegistryFile {self.path} services={len(self._services)} last_reload={state}>"

    def services(self) -> Services:
        return self._services

    def start(self, on_change: OnChange) -> None:
        """Read the file once, before this returns (a failure is an event, not an exception), then watch it."""
        self._on_change = on_change
        self._watch.look()
        self._take(first=True)
        self._watch.start()

    def stop(self) -> None:
        self._on_change = None
        self._watch.stop()

    def reload(self) -> bool:
        """Read the file now, whether it has changed or not; true when it is good and in force on return."""
        self._watch.look()
        self._take()
        return self.last_reload_successful

    def _take(self, first: bool = False) -> None:
        """Read the file and put it in force if it is good."""
        with self._loading:
            loaded = in_thread(read, self.path, self._digest, self._services, self._load)
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
