"""Names kept resolved, by time to live, away from the path of every request.

One greenlet knows which name is due and starts a short-lived greenlet for each lookup, so that a slow name delays no
other. A failing resolver takes nothing away: the last good answer stays, its age can be read, and an outage is one
event when it begins and one when it ends.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gevent import Greenlet
from gevent.event import Event as Flag
from gevent.pool import Group

from charon.base.clock import Clock, SystemClock
from charon.base.names import Event
from charon.discovery.lookup import Addresses, LookupFailed
from charon.discovery.source import EventLog, Spawn


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, but ``concurrent``: how many lookups may be under way.

    ``min_ttl`` and ``max_ttl`` bound what a name server says. After a failure the next try comes in ``retry_min``,
    doubling up to ``retry_max``. ``refresh_interval``: a connect failure asks again at most this often.
    """

    min_ttl: float = 1.0
    max_ttl: float = 300.0
    retry_min: float = 1.0
    retry_max: float = 30.0
    refresh_interval: float = 1.0
    concurrent: int = 64


@dataclass(frozen=True, slots=True)
class NameStatus:
    """One name, for ``charon status``. Times in seconds; ``age`` is None while there has been no answer.

    ``failing_for`` is None while the resolver answers; ``error`` is then empty.
    """

    name: str
    addresses: tuple[str, ...]
    ttl: float
    age: float | None
    failing_for: float | None
    error: str


@dataclass(slots=True, eq=False)
class _Name:
    name: str
    due: float
    answer: Addresses | None = None
    answered_at: float = 0.0
    asked_at: float = float("-inf")
    running: bool = False
    failures: int = 0
    failing_since: float = 0.0
    error: str = ""

    def addresses(self) -> tuple[str, ...]:
        return ((self.answer.ipv4 or ()) + (self.answer.ipv6 or ())) if self.answer else ()


@dataclass(order=True, slots=True)
class _Due:
    at: float
    entry: _Name = field(compare=False)


class Resolver:
    """Keeps a set of names resolved. ``find`` answers one name (:meth:`charon.discovery.lookup.Lookup.find`)."""

    def __init__(
        self,
        find: Callable[[str], Addresses],
        spawn: Spawn,
        log: EventLog,
        *,
        clock: Clock | None = None,
        pace: Pace | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._find = find
        self._spawn = spawn
        self._log = log
        self._clock = clock or SystemClock()
        self._pace = pace or Pace()
        self._jitter = jitter
        self._names: dict[str, _Name] = {}
        self._heap: list[_Due] = []
        self._unasked: set[str] = set()
        self._in_flight = 0
        self._lookups = Group()
        self._wake = Flag()
        self._all_asked = Flag()
        self._all_asked.set()
        self._on_change: Callable[[str], None] | None = None
        self._greenlet: Greenlet[..., object] | None = None

    def __repr__(self) -> str:
        failing = sum(1 for entry in self._names.values() if entry.failures)
        return f"<Resolver names={len(self._names)} failing={failing} in_flight={self._in_flight}>"

    def start(self, on_change: Callable[[str], None]) -> None:
        """Begin to resolve. ``on_change(name)`` runs when addresses have changed, or a name's first lookup failed."""
        self._on_change = on_change
        self._greenlet = self._spawn("dns-schedule", self._schedule)

    def stop(self) -> None:
        """End all lookups. The answers stay readable."""
        self._on_change = None
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        self._lookups.kill()

    def watch(self, names: Iterable[str]) -> None:
        """Keep exactly these names resolved: new ones are asked at once, others are forgotten."""
        wanted = set(names)
        for name in self._names.keys() - wanted:
            del self._names[name]
            self._mark_asked(name)
        for name in wanted - self._names.keys():
            entry = self._names[name] = _Name(name, due=0.0)
            self._unasked.add(name)
            self._all_asked.clear()
            self._put(entry, self._clock.monotonic())

    def wait(self, timeout: float) -> bool:
        """Wait until every watched name was answered or failed once; false when ``timeout`` seconds were too few."""
        return bool(self._all_asked.wait(timeout))

    def answer(self, name: str) -> Addresses | None:
        """The last good answer; None while there was none."""
        entry = self._names.get(name)
        return entry.answer if entry else None

    def is_pending(self, name: str) -> bool:
        """Whether the first lookup of a watched name is not over yet."""
        return name in self._unasked

    def refresh(self, name: str) -> None:
        """Ask again now, or as soon as the last question is ``refresh_interval`` old. Unknown names are ignored."""
        entry = self._names.get(name)
        if entry is None or entry.running:
            return
        due = max(self._clock.monotonic(), entry.asked_at + self._pace.refresh_interval)
        if due < entry.due:
            self._put(entry, due)

    def status(self) -> list[NameStatus]:
        """Every watched name, sorted."""
        now = self._clock.monotonic()
        return [
            NameStatus(
                name,
                entry.addresses(),
                ttl=entry.answer.ttl if entry.answer else 0.0,
                age=now - entry.answered_at if entry.answer else None,
                failing_for=now - entry.failing_since if entry.failures else None,
                error=entry.error,
            )
            for name, entry in sorted(self._names.items())
        ]

    def _put(self, entry: _Name, due: float) -> None:
        entry.due = due
        heapq.heappush(self._heap, _Due(due, entry))
        self._wake.set()

    def _schedule(self) -> None:
        while True:
            self._wake.clear()
            self._wake.wait(self._launch_due())

    def _launch_due(self) -> float | None:
        """Start what is due; the seconds until something else is, None when only a change can tell."""
        while self._heap:
            first = self._heap[0]
            stale = first.at != first.entry.due or first.entry.running or not self._is_watched(first.entry)
            if not stale:
                wait = first.at - self._clock.monotonic()
                if wait > 0:
                    return wait
                if self._in_flight >= self._pace.concurrent:
                    return None
            heapq.heappop(self._heap)
            if not stale:
                self._launch(first.entry)
        return None

    def _launch(self, entry: _Name) -> None:
        entry.running = True
        entry.asked_at = self._clock.monotonic()
        self._in_flight += 1
        self._lookups.add(self._spawn(f"dns:{entry.name}", self._look_up, entry))

    def _look_up(self, entry: _Name) -> None:
        try:
            outcome: Addresses | str = self._find(entry.name)
        except LookupFailed as failure:
            outcome = failure.reason
        except Exception as error:  # noqa: BLE001 - told as a failure; the name must be asked again all the same
            outcome = f"{type(error).__name__}: {error}"
        finally:
            entry.running = False
            self._in_flight -= 1
            self._wake.set()
        if not self._is_watched(entry):
            return
        if isinstance(outcome, str):
            self._failed(entry, outcome)
        else:
            self._succeeded(entry, outcome)

    def _succeeded(self, entry: _Name, found: Addresses) -> None:
        now = self._clock.monotonic()
        before, failures = entry.addresses(), entry.failures
        entry.failures, entry.error = 0, ""
        entry.answer = _over(found, entry.answer)
        entry.answered_at = now
        ttl = min(max(found.ttl, self._pace.min_ttl), self._pace.max_ttl)
        # Later, never earlier: a caching server asked too early only hands out the rest of the old time to live.
        self._put(entry, now + ttl * (1 + 0.1 * self._jitter()))
        self._mark_asked(entry.name)
        if failures:
            lasted = round(now - entry.failing_since, 3)
            self._log.event("info", Event.RESOLVE_RECOVERED, host=entry.name, failed_for_s=lasted)
        if entry.addresses() != before and self._on_change is not None:
            self._on_change(entry.name)

    def _failed(self, entry: _Name, reason: str) -> None:
        now = self._clock.monotonic()
        wait = min(self._pace.retry_min * 2 ** min(entry.failures, 16), self._pace.retry_max)
        entry.error = reason
        entry.failures += 1
        self._put(entry, now + wait * (1 + 0.1 * self._jitter()))
        first = self.is_pending(entry.name)
        self._mark_asked(entry.name)
        if entry.failures == 1:
            entry.failing_since = now
            self._report_outage(entry, now)
        if first and self._on_change is not None:
            self._on_change(entry.name)

    def _report_outage(self, entry: _Name, now: float) -> None:
        kept = entry.addresses()
        self._log.event(
            "warning" if kept else "error",
            Event.RESOLVE_FAILED,
            host=entry.name,
            reason=entry.error,
            addresses_kept=len(kept),
            age_s=round(now - entry.answered_at, 3) if kept else None,
        )

    def _mark_asked(self, name: str) -> None:
        self._unasked.discard(name)
        if not self._unasked:
            self._all_asked.set()

    def _is_watched(self, entry: _Name) -> bool:
        return self._names.get(entry.name) is entry


def _over(found: Addresses, last: Addresses | None) -> Addresses:
    """The new answer, with the last one's addresses for a family that could not be asked this time."""
    return Addresses(
        found.ipv4 if found.ipv4 is not None or last is None else last.ipv4,
        found.ipv6 if found.ipv6 is not None or last is None else last.ipv6,
        found.ttl,
    )
