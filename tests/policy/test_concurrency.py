"""The limit on requests at the same time, step by step; what it comes to over time is in tests/shared."""

from __future__ import annotations

from math import sqrt

import pytest

from charon.config.snapshot import ConcurrencySpec
from charon.policy.concurrency import (
    LONGEST_WINDOW,
    SAMPLES,
    Limit,
    Window,
    after_window,
    bounded,
    given_up,
    measured,
    shortest_window,
)

SPEC = ConcurrencySpec(min_limit=4, max_limit=1000, tolerance=1.5, target_latency=None, remeasure=60.0)
KNOWN = Limit(limit=100.0, usual=0.1, guessed=0.0, growing=0.0)


def window(peak: float, *, refused: bool = False) -> Window:
    made = Window()
    made.peak, made.refused = peak, refused
    return made


class TestWindow:
    def test_it_is_complete_with_enough_answers_and_time_and_gives_their_median(self) -> None:
        seen = Window()
        seen.restart(50.0)
        for number in range(SAMPLES - 1):
            assert seen.add(float(SAMPLES - number), 50.2, 0.1) is None
        assert seen.add(0.0, 50.05, 0.1) is None, "too early"
        assert seen.add(1000.0, 50.1, 0.1) == sorted([*range(2, SAMPLES + 1), 0, 1000])[(SAMPLES + 1) // 2]

    def test_what_is_too_long_ago_is_forgotten(self) -> None:
        seen = Window()
        seen.restart(50.0)
        seen.peak, seen.refused = 7.0, True
        for _ in range(SAMPLES - 1):
            seen.add(1.0, 50.0 + LONGEST_WINDOW, 0.0)
        assert (seen.began, seen.peak, seen.refused) == (50.0, 7.0, True)
        assert seen.add(1.0, 50.1 + LONGEST_WINDOW, 0.0) is None
        assert (seen.began, seen.peak, seen.refused) == (50.1 + LONGEST_WINDOW, 0.0, False)
        for _ in range(SAMPLES - 2):
            assert seen.add(2.0, 61.0, 0.0) is None
        assert seen.add(2.0, 61.0, 0.0) == 2.0

    def test_a_fresh_one_has_seen_nothing(self) -> None:
        seen = Window()
        assert (seen.began, seen.peak, seen.refused) == (0.0, 0.0, False)
        assert [seen.add(3.0, 1.0, 0.0) for _ in range(SAMPLES)] == [None] * (SAMPLES - 1) + [3.0]

    def test_it_keeps_no_more_than_a_thousand(self) -> None:
        seen = Window()
        for _ in range(1000):
            seen.add(1.0, 0.5, 1.0)
        for _ in range(3000):
            seen.add(9.0, 0.5, 1.0)
        assert seen.add(9.0, 1.0, 1.0) == 1.0


def test_a_window_lasts_twice_the_usual_latency_and_a_measurement_as_long_as_it_takes() -> None:
    assert shortest_window(Limit()) == 0.1
    assert shortest_window(Limit(usual=0.05)) == 0.1
    assert shortest_window(Limit(usual=0.3)) == 0.6
    assert shortest_window(Limit(usual=0.3, restore=50.0)) == 0.0


def test_bounds() -> None:
    inside = Limit(limit=50.0)
    assert bounded(inside, SPEC) is inside
    assert bounded(Limit(limit=3.9, usual=0.2), SPEC) == Limit(limit=4.0, usual=0.2)
    assert bounded(Limit(limit=1000.1, usual=0.2), SPEC) == Limit(limit=1000.0, usual=0.2)


def test_a_measurement_ends_with_what_it_found_and_the_limit_there_was() -> None:
    during = Limit(4.0, 0.1, 1.0, 0.0, 20.0, 15.0, 80.0, 21.0)
    assert given_up(during, SPEC, 30.0) == Limit(80.0, 0.1, 1.0, 0.0, 30.0, 0.0, 0.0, 0.0)
    assert measured(during, SPEC, 0.07, 30.0) == Limit(80.0, 0.07, 0.0, 0.0, 30.0, 0.0, 0.0, 0.0)
    assert given_up(during._replace(restore=2000.0), SPEC, 30.0).limit == 1000.0


class TestUsual:
    """What the usual latency is taken to be."""

    @pytest.mark.parametrize(
        ("limit", "median", "peak", "usual", "guessed"),
        [
            (KNOWN, 0.5, 4, 0.5, 0.0),  # nothing can have been waiting: so it is now
            (KNOWN._replace(guessed=1.0), 0.5, 3, 0.5, 0.0),
            (Limit(), 0.5, 5, 0.5, 1.0),  # the first guess
            (KNOWN, 0.05, 60, 0.1 - 0.05 * 0.3, 0.0),  # quicker
            (KNOWN._replace(guessed=1.0), 0.05, 60, 0.1 - 0.05 * 0.3, 1.0),
            (KNOWN, 0.2, 49, 0.1 + 0.1 * 0.1, 0.0),  # slower with much room
            (KNOWN, 0.2, 50, 0.1, 0.0),  # slower with little: that is the queue
            (KNOWN, 0.1, 50, 0.1, 0.0),
        ],
    )
    def test_usual(self, limit: Limit, median: float, peak: int, usual: float, guessed: float) -> None:
        after = after_window(limit, SPEC, median, window(peak), 10.0)
        assert (after.usual, after.guessed) == (pytest.approx(usual), guessed)
        assert after.changed_at == 10.0 and after.restore == 0.0


class TestLimit:
    """How the limit follows."""

    @pytest.mark.parametrize(
        ("median", "peak", "expected"),
        [
            (0.1, 50, 100.0),  # usual, and half of it is enough
            (0.1, 51, 110.0),  # usual, and more is in use: grows by its root
            (0.15, 51, 110.0),  # at the target
            (0.2, 51, 75.0 + 10.0),  # above it
            (0.2, 50, 75.0),
            (0.6, 50, 50.0),  # never below the half at once
        ],
    )
    def test_it_follows_the_median(self, median: float, peak: int, expected: float) -> None:
        after = after_window(KNOWN, SPEC, median, window(peak), 10.0)
        assert after.limit == pytest.approx(expected)
        assert after.growing == 0.0

    def test_it_doubles_as_long_as_it_was_never_too_high_and_requests_are_refused(self) -> None:
        young = KNOWN._replace(growing=1.0)
        assert after_window(young, SPEC, 0.1, window(51, refused=True), 10.0).limit == 200.0
        assert after_window(young, SPEC, 0.1, window(51), 10.0).limit == 100.0 + sqrt(100.0)
        assert after_window(KNOWN, SPEC, 0.1, window(51, refused=True), 10.0).limit == 100.0 + sqrt(100.0)
        assert after_window(young, SPEC, 0.1, window(51, refused=True), 10.0).growing == 1.0
        assert after_window(young, SPEC, 0.2, window(51, refused=True), 10.0).growing == 0.0

    def test_a_target_that_is_set_counts_instead(self) -> None:
        spec = ConcurrencySpec(min_limit=4, max_limit=1000, tolerance=1.5, target_latency=0.3, remeasure=60.0)
        assert after_window(KNOWN, spec, 0.3, window(50), 10.0).limit == 100.0
        assert after_window(KNOWN, spec, 0.4, window(50), 10.0).limit == pytest.approx(75.0)
        refusing = KNOWN._replace(refusing_since=5.0)
        assert after_window(refusing, spec, 0.3, window(50, refused=True), 1000.0).refusing_since == 0.0

    def test_no_time_at_all_is_no_reason_to_shrink(self) -> None:
        assert after_window(KNOWN._replace(usual=0.0), SPEC, 0.0, window(50), 10.0).limit == 100.0

    def test_it_stays_in_its_bounds(self) -> None:
        assert after_window(KNOWN._replace(limit=5.0), SPEC, 9.9, window(5), 10.0).limit == 5.0 / 2 + sqrt(5.0)
        assert after_window(KNOWN._replace(limit=5.0), SPEC, 0.2, window(2), 10.0).limit == 5.0
        assert after_window(KNOWN._replace(limit=999.0), SPEC, 0.1, window(999), 10.0).limit == 1000.0


class TestMeasuring:
    """When the usual latency is measured, with a limit at its lowest for a moment."""

    def test_refusals_are_timed_from_the_first(self) -> None:
        first = after_window(KNOWN, SPEC, 0.1, window(50, refused=True), 10.0)
        assert first.refusing_since == 10.0 and not first.restore
        later = after_window(first, SPEC, 0.1, window(50, refused=True), 69.9)
        assert later.refusing_since == 10.0 and not later.restore
        quiet = after_window(later, SPEC, 0.1, window(50), 69.95)
        assert quiet.refusing_since == 0.0

    def test_when_it_was_long_it_is_measured_and_the_limit_is_kept_for_afterwards(self) -> None:
        refusing = KNOWN._replace(refusing_since=10.0, ready_at=5.0)
        due = after_window(refusing, SPEC, 0.1, window(50, refused=True), 70.0)
        assert (due.limit, due.restore, due.ready_at, due.refusing_since) == (4.0, 100.0, 0.0, 10.0)

    @pytest.mark.parametrize(("limit", "peak"), [(KNOWN._replace(guessed=1.0), 50), (KNOWN._replace(limit=8.0), 4)])
    def test_soon_where_it_was_guessed_or_where_hardly_anything_passes(self, limit: Limit, peak: int) -> None:
        refusing, seen = limit._replace(refusing_since=10.0), window(peak, refused=True)
        assert not after_window(refusing, SPEC, 0.1, seen, 12.9).restore
        assert after_window(refusing, SPEC, 0.1, seen, 13.0).restore
        assert not after_window(KNOWN._replace(refusing_since=10.0), SPEC, 0.1, window(50, refused=True), 13.0).restore

    def test_never_later_than_it_is_set_to(self) -> None:
        spec = ConcurrencySpec(min_limit=4, max_limit=1000, tolerance=1.5, target_latency=None, remeasure=1.0)
        refusing = KNOWN._replace(guessed=1.0, refusing_since=10.0)
        assert after_window(refusing, spec, 0.1, window(50, refused=True), 11.0).restore == 100.0
