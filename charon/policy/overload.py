"""When a process has too much to do, and how much of it to turn away: pure steps over what was measured."""

from __future__ import annotations

from typing import Final

_ROUNDS: Final = 3
"""Late rounds in a row that are overload. One pause, however long, is none: what waited is done when it is over."""

_MOST: Final = 0.95
"""Share that is turned away at most: some must pass, or nobody would learn that the trouble is over."""

_SLOWEST_STEP, _FASTEST_STEP = 0.05, 0.3

_RECOVERY: Final = 2.0
"""Seconds in which everything is let through again, once the process keeps up."""


class LagControl:
    """How late a loop comes to what is ready, and the share of new work to turn away so that it keeps up.

    Between half of ``bound`` and ``bound``, in seconds, the share stays as it is.
    """

    __slots__ = ("_credit", "_looked_at", "_rounds", "bound", "share")

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.share = 0.0
        self._rounds = 0
        self._looked_at = 0.0
        self._credit = 0.0

    def look(self, lag: float, now: float) -> None:
        """One round of the loop was ``lag`` seconds late."""
        passed, self._looked_at = now - self._looked_at, now
        if lag > self.bound:
            self._rounds += 1
            if self._rounds >= _ROUNDS:
                step = _SLOWEST_STEP * lag / self.bound
                self.share = min(_MOST, self.share + min(_FASTEST_STEP, step))
            return
        self._rounds = 0
        if self.share and lag < self.bound / 2:
            self.share = max(0.0, self.share - passed / _RECOVERY)
            if not self.share:
                self._credit = 0.0

    def sheds(self) -> bool:
        """Whether the next piece of new work is turned away; evenly, so that ``share`` of them are."""
        self._credit += self.share
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True


class MemoryControl:
    """What is done about too much memory, in steps; each look at which there still is too much takes the next one."""

    CLOSE_IDLE_CLIENTS: Final = 1
    CLOSE_IDLE_UPSTREAMS: Final = 2
    TAKE_NOTHING: Final = 3

    RELIEF: Final = 0.9
    """Share of the bound below which it is over."""

    PATIENCE: Final = 10.0
    """Seconds of taking nothing after which it is hopeless: what holds the memory is not what clients do."""

    __slots__ = ("_since", "bound", "step")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.step = 0
        self._since = 0.0

    def look(self, resident: int, now: float) -> None:
        """The process has ``resident`` bytes."""
        if resident > self.bound:
            if self.step < self.TAKE_NOTHING:
                self.step += 1
                self._since = now
        elif resident < self.bound * self.RELIEF:
            self.step = 0

    def hopeless(self, now: float) -> bool:
        """Whether nothing has helped."""
        return self.step == self.TAKE_NOTHING and now - self._since > self.PATIENCE
