"""The sweep: everything overdue expires, once, and nothing early; a moved deadline costs no bucket."""

from __future__ import annotations

from time import monotonic

import gevent
from hypothesis import given, settings
from hypothesis import strategies as st

from charon.net.deadlines import NEVER, PORTION, TICK, Deadlines, deadlines
from tests.net.support import until


class Sleeper:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.looked_at = NEVER
        self.tick = 0
        self.expired: list[float] = []

    def expire(self) -> None:
        self.expired.append(monotonic())


def at(seconds: float) -> Sleeper:
    return Sleeper(monotonic() + seconds)


def test_what_is_overdue_expires_once_and_not_early() -> None:
    sleepers = [at(seconds) for seconds in (0.0, 0.03, 0.1)]
    for sleeper in sleepers:
        deadlines().schedule(sleeper)
    until(lambda: all(sleeper.expired for sleeper in sleepers))
    gevent.sleep(3 * TICK)
    for sleeper in sleepers:
        assert len(sleeper.expired) == 1
        assert sleeper.expired[0] >= sleeper.deadline
        assert sleeper.looked_at == NEVER


def test_a_crowd_expires_in_portions() -> None:
    class Slow(Sleeper):
        def expire(self) -> None:
            super().expire()
            while monotonic() < self.expired[0] + PORTION / 2:
                pass  # its answer takes so long

    crowd = [Slow(monotonic()) for _ in range(7)]
    for sleeper in crowd:
        deadlines().schedule(sleeper)
    until(lambda: any(sleeper.expired for sleeper in crowd))
    assert sum(bool(sleeper.expired) for sleeper in crowd) <= 2
    until(lambda: all(sleeper.expired for sleeper in crowd))
    assert all(len(sleeper.expired) == 1 for sleeper in crowd)


def test_one_in_the_past_expires_at_the_next_sweep() -> None:
    sleeper = at(-100.0)
    deadlines().schedule(sleeper)
    until(lambda: sleeper.expired)


def test_a_deadline_moved_later_is_kept() -> None:
    sleeper, witness = at(0.02), at(0.06)
    deadlines().schedule(sleeper)
    deadlines().schedule(witness)
    sleeper.deadline = monotonic() + 0.15  # what a stream does when bytes arrive: one attribute, nothing else
    until(lambda: witness.expired)
    assert not sleeper.expired
    assert sleeper.looked_at == sleeper.deadline  # the look has moved it to its new bucket
    until(lambda: sleeper.expired)
    assert sleeper.expired[0] >= sleeper.deadline


def test_a_deadline_moved_earlier_is_scheduled_anew() -> None:
    sleeper = at(600.0)
    deadlines().schedule(sleeper)
    sleeper.deadline = monotonic() + 0.02
    deadlines().schedule(sleeper)
    until(lambda: sleeper.expired)


def test_what_is_forgotten_does_not_expire() -> None:
    forgotten, witness = at(0.02), at(0.06)
    for sleeper in (forgotten, witness):
        deadlines().schedule(sleeper)
    deadlines().forget(forgotten)
    until(lambda: witness.expired)
    assert not forgotten.expired
    assert forgotten.looked_at == NEVER


def test_a_deadline_taken_back_does_not_expire() -> None:
    sleeper, witness = at(0.02), at(0.06)
    for one in (sleeper, witness):
        deadlines().schedule(one)
    sleeper.deadline = NEVER
    until(lambda: witness.expired)
    assert not sleeper.expired


def test_one_that_expires_may_forget_and_schedule_others() -> None:
    other, later = at(0.02), at(0.04)

    class Busy(Sleeper):
        def expire(self) -> None:
            super().expire()
            deadlines().forget(other)
            deadlines().schedule(later)

    busy = Busy(other.deadline)
    deadlines().schedule(busy)
    deadlines().schedule(other)
    until(lambda: later.expired)
    assert len(busy.expired) == 1


def test_there_is_one_sweep_per_process() -> None:
    assert deadlines() is deadlines()


def test_a_sweep_tells_how_late_it_comes() -> None:
    told: list[float] = []
    deadlines().on_lag = lambda lag, now: told.append(lag)
    until(lambda: len(told) >= 3)
    held_up_until = monotonic() + 0.2
    while monotonic() < held_up_until:
        pass  # as a loop that is busy with other things
    told.clear()
    until(lambda: told)
    deadlines().on_lag = None
    assert 0.15 < told[0] < 5.0


class Swept(Deadlines):
    """Swept by hand at chosen moments: no timer."""

    def __init__(self) -> None:
        self._buckets = {}
        self._swept_at = monotonic()
        self._swept = int(self._swept_at / TICK)
        self.on_lag = None

    def schedule_all(self, sleepers: list[Sleeper]) -> None:
        for sleeper in sleepers:
            self.schedule(sleeper)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1.0, 0.03), max_size=30), st.integers(0, 5))
def test_however_they_are_spread_every_one_expires_exactly_once(delays: list[float], skipped: int) -> None:
    """Also when the process was held up for more ticks than there are buckets."""
    sweep = Swept()
    sleepers = [at(delay) for delay in delays]
    sweep.schedule_all(sleepers)
    sweep._swept -= skipped * 1000  # as after a long pause
    for sleeper in sleepers:
        sleeper.deadline -= 1.0  # the moment has passed
    while any(sleeper.looked_at != NEVER for sleeper in sleepers):
        sweep._sweep()
    assert all(len(sleeper.expired) == 1 for sleeper in sleepers)
    assert not sweep._buckets
