"""The average rate that a sender owes."""

import pytest

from charon.policy.pace import GRACE, patience


@pytest.mark.parametrize(
    ("taken", "waited", "left"),
    [
        (0, 0.0, GRACE),
        (0, GRACE, 0.0),
        (100, GRACE - 1, 1.1),
        (20_000, 5.0, GRACE + 15.0),  # twenty seconds' worth: what came early is to its credit
        (20_000, 35.0, -5.0),
    ],
)
def test_the_wait_that_is_left(taken: int, waited: float, left: float) -> None:
    assert patience(1000, taken, waited) == pytest.approx(left)


def drip(rate: float, piece: int, every: float) -> float:
    """When a sender of ``piece`` bytes every so many seconds is cut; infinity when it has sent for an hour."""
    taken, now = 0, 0.0
    while now < 3600:
        left = patience(rate, taken, now)
        if left < every:
            return now + left
        now += every
        taken += piece
    return float("inf")


def test_a_dripping_sender_gets_the_grace_and_no_more() -> None:
    assert drip(1000, 1, 1.0) == pytest.approx(GRACE, abs=0.1)


def test_a_sender_at_the_rate_is_never_cut() -> None:
    assert drip(1000, 1000, 1.0) == float("inf")


def test_a_sender_below_the_rate_is_cut_when_the_grace_is_used_up() -> None:
    assert drip(1000, 900, 1.0) == pytest.approx((GRACE - 1.0) / (1 - 0.9), abs=2.0)
