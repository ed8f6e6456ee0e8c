"""Probes and passive health: what sets an endpoint aside, for how long, and what brings it back."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.config.snapshot import HealthCheckSpec, PassiveSpec
from charon.policy.health import (
    PASSIVE_WORDS,
    UNHARMED,
    Passive,
    Probe,
    failure,
    first_delay,
    is_ejected,
    may_eject,
    next_delay,
    observe,
    of_words,
    success,
)

NOW = 1000.0
SPEC = PassiveSpec(failures=3, cooldown=30.0, max_cooldown=300.0, max_ejected_percent=50.0)
JITTER = st.floats(0, 1, exclude_max=True)


# -- probes -----------------------------------------------------------------------------------------------------------


def observed(results: str, spec: HealthCheckSpec) -> str:
    """The health after each result; ``+`` is good, ``-`` is bad."""
    probe: Probe | None = None
    states = ""
    for result in results:
        probe = observe(probe, result == "+", spec)
        states += "+" if probe.healthy else "-"
    return states


@pytest.mark.parametrize(
    ("rise", "fall", "results", "states"),
    [
        (1, 1, "+-+-", "+-+-"),
        (2, 3, "+", "+"),  # the first result decides at once
        (2, 3, "-", "-"),
        (2, 3, "+--+--", "++++++"),  # too few in a row
        (2, 3, "+---", "+++-"),
        (2, 3, "-+-+", "----"),
        (2, 3, "-++", "--+"),
        (2, 3, "+----++", "+++---+"),
    ],
)
def test_thresholds(rise: int, fall: int, results: str, states: str) -> None:
    assert observed(results, HealthCheckSpec(healthy_threshold=rise, unhealthy_threshold=fall)) == states


@given(st.lists(st.booleans()), st.integers(1, 5), st.integers(1, 5))
def test_health_changes_only_on_enough_results_in_a_row(results: list[bool], rise: int, fall: int) -> None:
    spec = HealthCheckSpec(healthy_threshold=rise, unhealthy_threshold=fall)
    probe: Probe | None = None
    for count, ok in enumerate(results, 1):
        before, probe = probe, observe(probe, ok, spec)
        needed = rise if ok else fall
        if before is None:
            assert probe == Probe(ok, 0)
        elif probe.healthy != before.healthy:
            assert probe == Probe(ok, 0)
            assert results[max(0, count - needed) : count] == [ok] * needed
        assert 0 <= probe.streak < max(rise, fall)


def test_steady_health_is_the_same_value() -> None:
    probe = Probe(True, 0)
    assert observe(probe, True, HealthCheckSpec()) is probe


@given(JITTER, st.floats(0.01, 600))
def test_delays(jitter: float, interval: float) -> None:
    spec = HealthCheckSpec(interval=interval)
    assert 0.9 * interval <= next_delay(spec, True, jitter) <= 1.1 * interval
    assert 0.9 * min(interval, 1.0) <= next_delay(spec, False, jitter) <= min(interval, 1.0)
    assert 0 <= first_delay(spec, jitter) <= min(interval, 1.0)


def test_jitter_spreads() -> None:
    spec = HealthCheckSpec(interval=10.0)
    assert (next_delay(spec, True, 0.0), next_delay(spec, True, 0.5)) == (9.0, 10.0)
    assert (first_delay(spec, 0.0), first_delay(spec, 0.5)) == (0.0, 0.5)


# -- traffic ----------------------------------------------------------------------------------------------------------


def failing(times: int, p: Passive = UNHARMED, now: float = NOW, ejected: int = 0, endpoints: int = 4) -> Passive:
    for _ in range(times):
        p = failure(p, SPEC, now, ejected, endpoints)
    return p


def test_set_aside_after_exactly_so_many_failures_in_a_row() -> None:
    assert not is_ejected(failing(2), NOW)
    p = failing(3)
    assert is_ejected(p, NOW) and is_ejected(p, NOW + 29.9)
    assert not is_ejected(p, NOW + 30)


def test_a_success_starts_the_count_anew() -> None:
    p = success(failing(2), NOW)
    assert p.failures == 0
    assert not is_ejected(failing(2, p), NOW)


def test_a_success_with_nothing_to_clear_changes_nothing() -> None:
    assert success(UNHARMED, NOW) is UNHARMED
    over = failing(3)
    assert success(over, NOW + 31) is over


def test_the_cooldown_doubles_up_to_its_cap() -> None:
    p, now, cooldowns = UNHARMED, NOW, []
    for _ in range(6):
        p = failing(3, p, now)
        cooldowns.append(p.ejected_until - now)
        now = p.ejected_until
    assert cooldowns == [30, 60, 120, 240, 300, 300]


@pytest.mark.parametrize(("good", "cooldown"), [(0, 120), (299, 120), (300, 60), (600, 30), (10_000, 30)])
def test_a_long_good_time_is_remembered(good: float, cooldown: float) -> None:
    p = failing(3)
    p = failing(3, p, p.ejected_until)
    now = p.ejected_until + good
    assert failing(3, p, now).ejected_until - now == cooldown


def test_a_success_while_set_aside_ends_it() -> None:
    p = success(failing(3), NOW + 5, began=NOW + 4)
    assert not is_ejected(p, NOW + 5)
    again = failing(3, p, NOW + 5)
    assert again.ejected_until == NOW + 5 + 60, "a repetition all the same"


def test_what_was_sent_before_says_nothing_after() -> None:
    p = failing(3)
    assert success(p, NOW + 5, began=NOW - 1) is p
    assert failure(p, SPEC, NOW + 31, 0, 4, began=NOW - 1) is p
    back = success(p, NOW + 5, began=NOW + 4)
    assert failure(back, SPEC, NOW + 6, 0, 4, began=NOW + 4) is back


def test_failures_while_set_aside_do_not_make_it_longer() -> None:
    p = failing(3)
    assert failure(p, SPEC, NOW + 5, 3, 4) is p


@pytest.mark.parametrize(
    ("percent", "ejected", "endpoints", "allowed"),
    [
        (50, 0, 1, True),  # alone: it is tried nevertheless
        (50, 0, 2, True),
        (50, 1, 2, False),
        (50, 1, 3, False),
        (50, 1, 4, True),
        (50, 2, 4, False),
        (10, 0, 3, True),  # the first always
        (10, 1, 3, False),
        (100, 2, 3, True),
        (100, 3, 3, False),
        (0, 0, 3, False),  # off
    ],
)
def test_share(percent: float, ejected: int, endpoints: int, allowed: bool) -> None:
    spec = PassiveSpec(failures=1, max_ejected_percent=percent)
    assert may_eject(spec, ejected, endpoints) is allowed
    assert is_ejected(failure(UNHARMED, spec, NOW, ejected, endpoints), NOW) is allowed


def test_one_that_could_not_be_set_aside_is_as_soon_as_there_is_room() -> None:
    p = failing(5, ejected=2)
    assert p.failures == 5 and not is_ejected(p, NOW)
    assert is_ejected(failing(1, p, ejected=1), NOW)


def test_a_row_of_words_is_passive_state() -> None:
    row = array("d", bytes(8 * PASSIVE_WORDS))
    assert of_words(row) == UNHARMED
    for now in (NOW, NOW + 30):
        for _ in range(3):
            row[:] = array("d", failure(of_words(row), SPEC, now, 0, 2))
    assert of_words(row).ejected_until == NOW + 30 + 60


@given(
    endpoints=st.integers(1, 8),
    percent=st.floats(0, 100),
    events=st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.floats(0, 20)), max_size=120),
)
def test_never_more_than_the_share_at_once(
    endpoints: int, percent: float, events: list[tuple[int, bool, float]]
) -> None:
    spec = PassiveSpec(failures=2, cooldown=10.0, max_cooldown=40.0, max_ejected_percent=percent)
    states = [UNHARMED] * endpoints
    now = NOW
    for which, ok, pause in events:
        now += pause
        index = which % endpoints
        ejected = sum(is_ejected(p, now) for p in states)
        before = states[index]
        states[index] = success(before, now) if ok else failure(before, spec, now, ejected, endpoints)
        assert states[index].ejected_until - now <= 40
        after = sum(is_ejected(p, now) for p in states)
        assert after <= (max(1, endpoints * percent / 100) if percent else 0)
