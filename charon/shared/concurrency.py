"""The number of requests that a service is given at the same time by all workers together, found out by itself.

The limit and what it is found from are words of the shared table; each worker has a word beside them for its own
requests under way. Whichever worker first has a window full of answers takes the next step; the windows of the others
then begin anew, as theirs are about the time before it.
"""

from __future__ import annotations

from array import array
from typing import Final

from charon.policy import concurrency
from charon.policy.concurrency import LONGEST_WINDOW, WORDS, Limit, Settings, Window
from charon.shared.table import CONCURRENCY_WORDS, Lock, NoLock, SharedTable

_LIMIT: Final = Limit._fields.index("limit")
_CHANGED_AT: Final = Limit._fields.index("changed_at")
_RESTORE: Final = Limit._fields.index("restore")
_READY_AT: Final = Limit._fields.index("ready_at")
assert WORDS <= CONCURRENCY_WORDS


class ServiceConcurrency:
    """One service as the worker in ``slot`` sees it. ``row`` is the service's, -1 where it has none: then this worker
    is alone with it."""

    __slots__ = ("_base", "_cells", "_lock", "_own", "_settings", "_window", "_words")

    def __init__(self, table: SharedTable, row: int, slot: int, settings: Settings) -> None:
        self._words: memoryview[float]
        self._lock: Lock
        if row < 0:
            self._words = memoryview(array("d", bytes(8 * (CONCURRENCY_WORDS + 1))))
            self._base, slot, slots = 0, 0, 1
            self._lock = NoLock()
        else:
            self._words = table.words
            self._base, slots = table.concurrency_cells(row), table.slots
            self._lock = table.limits
        first = self._base + CONCURRENCY_WORDS
        self._cells = range(first, first + slots)
        self._own = self._cells[slot]
        self._words[self._own] = 0.0  # what another process in this slot has left
        self._window = Window()
        self._settings = settings
        self.follow(settings)

    def __repr__(self) -> str:
        return f"<ServiceConcurrency in_flight={self.in_flight:g} {self._read()}>"

    def follow(self, settings: Settings) -> None:
        """Take over changed settings; what was found out stays."""
        self._settings = settings
        with self._lock:
            found = self._read()
            self._write(concurrency.bounded(found if found.limit else Limit(), settings))

    @property
    def limit(self) -> float:
        """The limit now, of all workers together."""
        return self._words[self._base + _LIMIT]

    @property
    def in_flight(self) -> float:
        """Requests under way in all workers."""
        words = self._words
        return sum([words[cell] for cell in self._cells])

    def enter(self) -> bool:
        """Count one more request, unless there are enough. A few too many may pass when workers count at once."""
        others = self.in_flight
        window = self._window
        if others >= int(self._words[self._base + _LIMIT]):
            window.refused = True
            window.peak = max(window.peak, others)
            return False
        self.enter_again(others)
        return True

    def enter_again(self, others: float | None = None) -> None:
        """Count one more request: a further try of one that was let in once."""
        now_open = (self.in_flight if others is None else others) + 1.0
        window = self._window
        if now_open > window.peak:
            window.peak = now_open
        self._words[self._own] += 1.0

    def leave(self) -> None:
        """Count one less."""
        if self._words[self._own] > 0.0:
            self._words[self._own] -= 1.0

    def observe(self, began: float, now: float) -> None:
        """A request that began at ``began`` has just been answered."""
        words, base, window = self._words, self._base, self._window
        changed_at = words[base + _CHANGED_AT]
        if window.began < changed_at:
            window.restart(changed_at)
        if words[base + _RESTORE]:
            self._measure(began, now)
            return
        median = window.add(now - began, now, concurrency.shortest_window(self._read()))
        if median is not None:
            self._step(median, now)

    def _step(self, median: float, now: float) -> None:
        with self._lock:
            limit = self._read()
            if limit.changed_at <= self._window.began:  # nobody was faster
                self._write(concurrency.after_window(limit, self._settings, median, self._window, now))
        self._window.restart(now)

    def _measure(self, began: float, now: float) -> None:
        """The limit is low, so that answers tell how long they take when there is little to do."""
        with self._lock:
            limit = self._read()
            if not limit.restore:
                return
            if now - limit.changed_at > LONGEST_WINDOW:
                self._write(concurrency.given_up(limit, self._settings, now))
            elif not limit.ready_at:
                if self.in_flight <= self._settings.min_limit:
                    self._write(limit._replace(ready_at=now))
            elif began >= limit.ready_at:  # the others have stood in the queue that this is not about
                median = self._window.add(now - began, now, 0.0)
                if median is not None:
                    self._write(concurrency.measured(limit, self._settings, median, now))

    def _read(self) -> Limit:
        return Limit(*self._words[self._base : self._base + WORDS])

    def _write(self, limit: Limit) -> None:
        for offset, value in enumerate(limit):
            self._words[self._base + offset] = value
