"""Deadlines by sweep: a stream's wait costs one comparison, and one timer per process finds what is overdue.

Each stream stands in at most one bucket, the tick at which it is looked at next. Moving a deadline later changes one
attribute and no bucket; the look finds the later deadline and moves the stream there. So a busy keep-alive connection
is touched once in many seconds, and an idle one once per idle time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from gevent import get_hub

TICK = 0.02
"""Seconds between sweeps: the precision of every deadline."""

PORTION = TICK / 2
"""Seconds for which one sweep ends waits. Each has an answer to write: thousands at once, as after an attack by slow
clients, would hold up everybody else. The rest ends with the next sweeps."""

NEVER = math.inf


class Waiting(Protocol):
    """What the sweep needs to know of a stream."""

    deadline: float
    looked_at: float
    tick: int

    def expire(self) -> None:
        """Called in the hub once ``deadline`` has passed; must not block."""


class Deadlines:
    """The buckets and the timer of one process.

    A sweep comes late when the loop is busy with other things. ``on_lag`` is told, each time, by how many seconds, and
    the time: so late is everything that is ready.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, set[Waiting]] = {}
        self._swept_at = monotonic()
        self._swept = int(self._swept_at / TICK)
        self.on_lag: Callable[[float, float], None] | None = None
        self._timer = get_hub().loop.timer(TICK, TICK)
        self._timer.start(self._sweep)

    def schedule(self, waiting: Waiting) -> None:
        """Look at ``waiting`` when its deadline, which is earlier than its next look, has come."""
        if waiting.looked_at != NEVER:
            self.forget(waiting)
        waiting.looked_at = waiting.deadline
        waiting.tick = max(int(waiting.deadline / TICK), self._swept) + 1
        bucket = self._buckets.get(waiting.tick)
        if bucket is None:
            self._buckets[waiting.tick] = {waiting}
        else:
            bucket.add(waiting)

    def forget(self, waiting: Waiting) -> None:
        """Look at ``waiting`` no more (it is being closed, or moves to another bucket)."""
        bucket = self._buckets.get(waiting.tick)
        if bucket is not None:
            bucket.discard(waiting)
        waiting.looked_at = NEVER

    def _sweep(self) -> None:
        now = monotonic()
        lag = now - self._swept_at - TICK
        self._swept_at = now
        if self.on_lag is not None:
            self.on_lag(lag, now)
        until = int(now / TICK)
        buckets = self._buckets
        if until - self._swept > len(buckets) + 1:  # after a pause there are fewer buckets than ticks
            due = sorted(tick for tick in buckets if tick <= until)
        else:
            due = [tick for tick in range(self._swept + 1, until + 1) if tick in buckets]
        self._swept = until
        enough = now + PORTION
        for tick in due:
            for waiting in buckets.pop(tick, ()):
                waiting.looked_at = NEVER
                if waiting.deadline <= now and monotonic() < enough:
                    waiting.expire()
                elif waiting.deadline != NEVER:
                    self.schedule(waiting)


_deadlines: Deadlines | None = None


def deadlines() -> Deadlines:
    """The sweep of this process, started on first use (it belongs to the process's one hub)."""
    global _deadlines
    if _deadlines is None:
        _deadlines = Deadlines()
    return _deadlines
