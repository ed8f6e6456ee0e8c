"""How many requests a service is given at the same time, found from how long they take: pure decisions.

A service whose latency stays near what is usual for it has room for more; one whose latency grows with the number of
its requests has a queue, and a longer queue makes all of them slower and not one more of them done. Latencies are
looked at in windows, by their median, which neither a few slow requests nor a few quick ones move:

- the limit is multiplied by ``target / median``, from a half to 1, where the target is ``target_latency`` or
  ``tolerance`` times the usual median;
- while more than half of the limit is in use it also grows by its square root, at first twofold, so that it finds room
  that has come. Under load it so settles where latency is somewhat above the target, and work never runs out;
- the usual median is measured when there is little to do. Where there is too much all the time it cannot be, so now and
  then the limit is set to ``min_limit`` until some answers to requests that began then are there.
"""

from __future__ import annotations

from math import sqrt
from typing import Final, NamedTuple, Protocol

FIRST_LIMIT: Final = 100.0

SAMPLES: Final = 20
"""Answers that a window has at least."""

_MOST_SAMPLES: Final = 1000
_SHORTEST_WINDOW: Final = 0.1

LONGEST_WINDOW: Final = 10.0
"""Seconds after which what is not enough for a window is forgotten; so long a measurement may take as well."""

_SOON: Final = 3.0
"""Seconds of refusals after which the usual latency is measured where it was only guessed, or where the limit has come
close to its lowest: what does not get quicker by that is not slow for the number of its requests."""

_DOWN, _UP = 0.3, 0.1
"""How fast the usual median follows a window that is quicker, and one that is slower while there was much room."""


class Settings(Protocol):
    """See charon.config.snapshot.ConcurrencySpec."""

    @property
    def min_limit(self) -> int: ...

    @property
    def max_limit(self) -> int: ...

    @property
    def tolerance(self) -> float: ...

    @property
    def target_latency(self) -> float | None: ...

    @property
    def remeasure(self) -> float: ...


class Limit(NamedTuple):
    """What is known of a service; numbers only, so that it can stand in shared memory. Times are monotonic seconds.

    ``usual`` is the median latency when there is little to do, 0 while nothing is known; ``guessed`` says that there
    was something to do whenever it was looked at. ``growing``: the limit has never been too high. ``changed_at`` is
    when the last window ended, ``refusing_since`` since when every window had refusals, 0 for never. While the usual
    latency is measured, ``restore`` is the limit to go back to (else 0), and ``ready_at`` when the queue was gone (0:
    not yet).
    """

    limit: float = FIRST_LIMIT
    usual: float = 0.0
    guessed: float = 1.0
    growing: float = 1.0
    changed_at: float = 0.0
    refusing_since: float = 0.0
    restore: float = 0.0
    ready_at: float = 0.0


WORDS: Final = len(Limit._fields)


class Window:
    """What one process has seen of a service since ``began``: latencies, and the most requests at the same time."""

    __slots__ = ("_samples", "began", "peak", "refused")

    def __init__(self) -> None:
        self._samples: list[float] = []
        self.began = 0.0
        self.peak = 0.0
        self.refused = False

    def restart(self, now: float) -> None:
        """Begin anew."""
        self._samples.clear()
        self.began = now
        self.peak = 0.0
        self.refused = False

    def add(self, seconds: float, now: float, shortest: float) -> float | None:
        """One answer has come after ``seconds``. Returns the median when the window, of ``shortest`` seconds at least,
        is complete."""
        if now - self.began > LONGEST_WINDOW:
            self.restart(now)
        samples = self._samples
        if len(samples) < _MOST_SAMPLES:
            samples.append(seconds)
        if len(samples) < SAMPLES or now - self.began < shortest:
            return None
        samples.sort()
        return samples[len(samples) // 2]


def shortest_window(limit: Limit) -> float:
    """Seconds that a window has at least: answers of the time before the last change say little about it."""
    return 0.0 if limit.restore else max(_SHORTEST_WINDOW, 2 * limit.usual)


def bounded(limit: Limit, settings: Settings) -> Limit:
    """``limit`` within the bounds of ``settings``."""
    value = max(float(settings.min_limit), min(limit.limit, float(settings.max_limit)))
    return limit._replace(limit=value) if value != limit.limit else limit


def measured(limit: Limit, settings: Settings, median: float, now: float) -> Limit:
    """A measurement has found the usual latency, and is over."""
    found = limit._replace(usual=median, guessed=0.0)
    return given_up(found, settings, now)


def given_up(limit: Limit, settings: Settings, now: float) -> Limit:
    """A measurement is over, whatever came of it."""
    return bounded(
        limit._replace(limit=limit.restore, restore=0.0, ready_at=0.0, refusing_since=0.0, changed_at=now), settings
    )


def after_window(limit: Limit, settings: Settings, median: float, window: Window, now: float) -> Limit:
    """What a complete window makes of ``limit``."""
    limit = _adjusted(_learned(limit, settings, median, window), settings, median, window)
    return bounded(_measuring_when_due(limit._replace(changed_at=now), settings, window, now), settings)


def _learned(limit: Limit, settings: Settings, median: float, window: Window) -> Limit:
    usual = limit.usual
    if window.peak <= settings.min_limit:
        return limit._replace(usual=median, guessed=0.0)  # nothing can have been waiting
    if not usual:
        return limit._replace(usual=median, guessed=1.0)
    if median < usual:
        return limit._replace(usual=usual + (median - usual) * _DOWN)
    if window.peak < limit.limit / 2:
        return limit._replace(usual=usual + (median - usual) * _UP)
    return limit


def _adjusted(limit: Limit, settings: Settings, median: float, window: Window) -> Limit:
    target = settings.tolerance * limit.usual if settings.target_latency is None else settings.target_latency
    share = min(1.0, max(0.5, target / median)) if median > 0 else 1.0
    growing = limit.growing if share == 1.0 else 0.0
    value = limit.limit * share
    if window.peak > limit.limit / 2:
        value += limit.limit if growing and window.refused else sqrt(limit.limit)
    return limit._replace(limit=value, growing=growing)


def _measuring_when_due(limit: Limit, settings: Settings, window: Window, now: float) -> Limit:
    if not window.refused or settings.target_latency is not None:
        return limit._replace(refusing_since=0.0)
    since = limit.refusing_since or now
    soon = limit.guessed or limit.limit <= 2 * settings.min_limit
    wait = min(_SOON, settings.remeasure) if soon else settings.remeasure
    if now - since < wait:
        return limit._replace(refusing_since=since)
    return limit._replace(limit=0.0, restore=limit.limit, ready_at=0.0, refusing_since=since)
