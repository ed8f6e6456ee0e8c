"""Ending what would go on for ever, spread over the last part of the time."""

from __future__ import annotations

import random

import pytest

from charon.policy.drain import ending

TIMEOUT, STEP = 30.0, 0.2


def drained(count: int, timeout: float = TIMEOUT) -> list[float]:
    """When each of ``count`` connections is ended."""
    rng = random.Random(7)
    moments: list[float] = []
    for tick in range(int(timeout / STEP) + 2):
        elapsed = tick * STEP
        moments += [elapsed] * ending(count - len(moments), elapsed, timeout, STEP, rng.random())
    return moments


@pytest.mark.parametrize("count", [1, 5, 50, 10_000])
def test_all_end_in_the_last_third(count: int) -> None:
    moments = drained(count)
    assert len(moments) == count
    assert min(moments) >= TIMEOUT * 2 / 3 - 1e-9 and max(moments) <= TIMEOUT


def test_they_end_evenly() -> None:
    moments = drained(1000)
    for second in range(20, 30):
        assert 80 <= sum(second <= moment < second + 1 for moment in moments) <= 120


def test_a_single_one_is_not_always_the_first_to_go() -> None:
    rng = random.Random(1)
    ends = []
    for _ in range(300):
        elapsed = 20.0
        while not ending(1, elapsed, TIMEOUT, STEP, rng.random()):
            elapsed += STEP
        ends.append(elapsed)
    assert 24 < sum(ends) / len(ends) < 26


@pytest.mark.parametrize("timeout", [0.0, 0.1])
def test_no_time_is_enough_to_end_all(timeout: float) -> None:
    assert ending(10, timeout, timeout, STEP, 0.0) == 10
