"""What is turned away when there is too much to do, and what is done about memory."""

from __future__ import annotations

import pytest

from charon.policy.overload import LagControl, MemoryControl

MB = 1 << 20


class Loop:
    """A process on its own clock: each round handles what has come since the last one, which takes its time."""

    def __init__(self, bound: float, cost: float, cheap: float) -> None:
        self.control = LagControl(bound)
        self.cost = cost
        self.cheap = cheap
        self.now = 0.0
        self.backlog = 0.0
        self.done = 0
        self.lags: list[float] = []

    def run(self, seconds: float, rate: float) -> None:
        until = self.now + seconds
        passed = 0.02
        while self.now < until:
            self.backlog += rate * passed
            passed = 0.0
            batch, self.backlog = int(self.backlog), self.backlog - int(self.backlog)
            for _ in range(batch):
                shed = self.control.share and self.control.sheds()
                passed += self.cheap if shed else self.cost
                self.done += not shed
            passed = max(0.02, passed)
            self.now += passed
            self.lags.append(passed - 0.02)
            self.control.look(self.lags[-1], self.now)


def test_a_process_that_keeps_up_turns_nothing_away() -> None:
    loop = Loop(0.1, 0.001, 0.0002)
    loop.run(30, 900)
    assert loop.control.share == 0


def test_one_long_pause_is_no_overload() -> None:
    control = LagControl(0.1)
    for lag in (0.0, 5.0, 0.0, 0.3, 0.3, 0.0):
        control.look(lag, 1.0)
    assert control.share == 0


def test_under_three_times_too_much_the_loop_stays_near_its_bound_and_recovers() -> None:
    loop = Loop(0.1, 0.001, 0.0002)
    loop.run(5, 900)
    loop.run(10, 3000)
    before = loop.done
    settled = len(loop.lags)
    loop.run(20, 3000)
    assert max(loop.lags[settled:]) < 0.3, "without it, each round would take three times as long as the one before"
    # 3000 a second, each at least 0.2 ms, leave 0.4 s of each second for whole ones at 0.8 ms more.
    assert (loop.done - before) / 20 > 0.8 * (1 - 3000 * 0.0002) / 0.0008
    loop.run(4, 500)
    assert loop.control.share == 0


def test_some_always_pass() -> None:
    control = LagControl(0.1)
    for _ in range(100):
        control.look(60.0, 1.0)
    assert 0.9 < sum(control.sheds() for _ in range(1000)) / 1000 < 1.0


def test_between_half_the_bound_and_the_bound_nothing_changes() -> None:
    control = LagControl(0.1)
    for _ in range(5):
        control.look(0.2, 1.0)
    share = control.share
    assert share > 0
    for now in range(2, 100):
        control.look(0.07, float(now))
    assert control.share == share


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> MemoryControl:
    return MemoryControl(100 * MB)


def test_each_look_that_finds_too_much_takes_the_next_step(memory: MemoryControl) -> None:
    steps = []
    for resident in (99, 101, 101, 101, 101):
        memory.look(resident * MB, 1.0)
        steps.append(memory.step)
    assert steps == [0, 1, 2, 3, 3]


def test_a_step_that_helped_somewhat_is_kept_until_it_is_enough(memory: MemoryControl) -> None:
    for resident, step in ((101, 1), (95, 1), (99, 1), (101, 2), (90.1, 2), (89, 0), (95, 0)):
        memory.look(int(resident * MB), 1.0)
        assert memory.step == step


def test_when_nothing_helps_it_is_hopeless(memory: MemoryControl) -> None:
    for now in (1.0, 2.0, 3.0):
        memory.look(101 * MB, now)
        assert not memory.hopeless(now)
    assert not memory.hopeless(12.9)
    assert memory.hopeless(13.1)
    memory.look(80 * MB, 13.1)
    assert not memory.hopeless(14.0)
