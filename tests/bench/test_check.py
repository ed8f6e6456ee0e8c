"""A run beside the recorded one."""

from __future__ import annotations

import pytest

from scripts.benchlib.check import NotComparableError, compare, recorded
from tests.bench.runs import bare, scaling

BEFORE = recorded(bare(charon=[9, 10, 11], envoy=[10, 10, 10]))


def test_what_is_kept_are_medians_and_the_spread_of_ratios() -> None:
    assert BEFORE["medians"] == {"http-bare": {"charon": {"cpu_us": 10}, "envoy": {"cpu_us": 10}}}
    assert BEFORE["ratios"] == {"http-bare: CPU µs/request, charon ÷ envoy": [0.9, 1.0, 1.1]}


@pytest.mark.parametrize("charon", [[9, 10, 11], [11, 12, 13], [5, 5, 5]], ids=["the same", "touching", "better"])
def test_a_run_that_touches_what_is_recorded_is_not_worse(charon: list[float]) -> None:
    assert compare(bare(charon=charon, envoy=[10, 10, 10]), BEFORE) == (1, [])


def test_a_run_that_is_off_in_every_round_is_worse() -> None:
    count, worse = compare(bare(charon=[11.1, 12, 13], envoy=[10, 10, 10]), BEFORE)
    line = "http-bare: CPU µs/request, charon ÷ envoy: 1.20 (1.11–1.30), recorded 1.00 (0.90–1.10)"
    assert (count, worse) == (1, [line])


def test_rounds_that_agreed_by_chance_leave_an_allowance() -> None:
    before = recorded(bare(charon=[10], envoy=[10]))
    assert compare(bare(charon=[10.5], envoy=[10]), before) == (1, [])
    assert compare(bare(charon=[10.6], envoy=[10]), before)[1] != []


def test_a_slower_machine_is_not_worse() -> None:
    assert compare(bare(charon=[100, 100], envoy=[100, 100]), BEFORE) == (1, [])


def test_where_more_is_better_less_is_worse() -> None:
    before = recorded(scaling(100, 180))
    assert compare(scaling(100, 171), before) == (1, [])
    assert compare(scaling(100, 170), before)[1] != []


def test_runs_of_other_work_are_not_compared() -> None:
    with pytest.raises(NotComparableError, match="no ratio is in both"):
        compare(scaling(100, 180), BEFORE)
    other = bare(charon=[1], envoy=[1])
    other.options["access_log"] = False
    with pytest.raises(NotComparableError, match="access log"):
        compare(other, BEFORE)
