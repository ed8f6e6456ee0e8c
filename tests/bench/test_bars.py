"""What Charon is to reach, and whether it does."""

from __future__ import annotations

import pytest

from scripts.benchlib.bars import BARS, Bar, judge, summary
from scripts.benchlib.peers import PEERS
from scripts.benchlib.workloads import APART, WORKLOADS
from tests.bench.runs import bare, document, scaling

BARE = Bar("bare", "http-bare", "cpu_us", "charon", ("envoy",), 0.9)
BEST = Bar("best", "http-bare", "cpu_us", "charon", ("envoy", "nginx"), 0.9)
TWO = Bar("two", "scaling", "per_second", "charon-2", ("charon",), 1.7, room=True)


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar.text)
def test_every_bar_is_of_something_that_a_whole_run_measures(bar: Bar) -> None:
    workload = WORKLOADS[bar.workload]
    assert bar.workload not in APART
    assert {bar.peer, *bar.references} <= set(workload.peers) <= set(PEERS)
    assert any(column.key == bar.column for column in workload.columns)


def test_the_median_decides() -> None:
    met = judge(BARE, bare(charon=[8, 9, 30], envoy=[10, 10, 10]))
    assert (met.word, met.ratios, met.limit) == ("met", [0.8, 0.9, 3.0], "≤ 0.9 × envoy")
    assert judge(BARE, bare(charon=[8, 10, 10], envoy=[10, 10, 10])).word == "missed"


def test_a_bar_over_several_is_over_the_best() -> None:
    verdict = judge(BEST, bare(charon=[9], envoy=[20], nginx=[9]))
    assert (verdict.word, verdict.limit) == ("missed", "≤ 0.9 × the best of envoy, nginx")


def test_more_can_be_better() -> None:
    assert judge(TWO, scaling(100, 170, room=True)).word == "met"
    assert judge(TWO, scaling(100, 169, room=True)).word == "missed"


def test_what_was_not_measured_says_why() -> None:
    assert judge(TWO, scaling(100, 200)).word == "not measured: the load has no core of its own"
    assert judge(BARE, document()).word == "not measured: http-bare did not run"
    assert judge(BARE, bare(envoy=[1])).word == "not measured: no figure of charon"
    assert judge(BEST, bare(charon=[1], nginx=[1])).word == "not measured: no figure of envoy"
    assert judge(BARE, bare(charon=[1], envoy=[0])).word == "not measured: nothing to divide by"


def test_the_summary_has_the_bars_of_what_ran() -> None:
    rows = summary(bare(charon=[8, 9, 30], envoy=[10, 10, 10]))
    assert rows == [
        ["bar", "limit", "measured", "verdict"],
        ["HTTP keep-alive, bare: CPU", "≤ 0.9 × envoy", "0.90 (0.80–3.00)", "met"],
    ]
