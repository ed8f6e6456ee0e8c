"""What follows from the figures of a run."""

from __future__ import annotations

import json

import pytest

from scripts.benchlib.figures import Document, markdown_table, percentile, span
from scripts.benchlib.http_workloads import HttpBare, HttpFull
from tests.bench.runs import bare, document, measured, scaling


def test_ratios_are_taken_round_by_round() -> None:
    found = measured(HttpBare, "cpu_us", charon=[10, 30], envoy=[20, 40])
    assert found.ratios("charon", ("envoy",), "cpu_us") == [0.5, 0.75]


def test_the_best_of_several_is_that_of_the_round() -> None:
    found = measured(HttpBare, "cpu_us", charon=[10, 10], envoy=[20, 5], nginx=[5, 20])
    assert found.ratios("charon", ("envoy", "nginx", "haproxy"), "cpu_us") == [2, 2]
    assert found.ratios("charon", ("envoy", "nginx"), "cpu_us", higher=True) == [0.5, 0.5]


def test_a_round_in_which_the_reference_added_nothing_has_no_ratio() -> None:
    found = measured(HttpBare, "cpu_us", charon=[1, 1, 1], envoy=[2, 0, -1])
    assert found.ratios("charon", ("envoy",), "cpu_us") == [0.5]


def test_a_table_has_the_figures_their_ratios_and_what_a_peer_has_over_its_base() -> None:
    title, *rows = measured(HttpFull, "cpu_us", charon=[10], charon_full=[12], envoy=[20], envoy_full=[24]).rows()
    assert title[:6] == ["peer", "CPU µs/request", "÷ envoy", "÷ envoy-full", "÷ nginx", "over"]
    assert rows[1][:6] == ["charon-full", "12.0", "0.60", "0.50", "-", "2.0"]
    assert [row[5] for row in rows] == ["-", "2.0", "-", "4.0"]


def test_a_column_of_all_workloads_is_shown_where_it_was_measured() -> None:
    found = measured(HttpBare, "cpu_us", charon=[10], haproxy=[11])
    assert "memory MB (PSS)" not in found.rows()[0]
    found.samples["charon"][0]["pss_mb"] = 48.0
    assert [row[-1] for row in found.rows()] == ["memory MB (PSS)", "48.0", "-"]


def test_two_workers_are_compared_with_one() -> None:
    title, one, two = scaling(100, 175).workloads[0].rows()
    place = title.index("requests/s")
    assert title[place + 1] == "÷ its base" and [one[place + 1], two[place + 1]] == ["-", "1.75"]


@pytest.mark.parametrize(
    ("values", "text"), [([], "-"), ([1.0], "1.00"), ([3.0, 1.0, 2.0], "2.00 (1.00–3.00)"), ([1.001, 1.002], "1.00")]
)
def test_a_span_is_the_median_and_what_is_around_it(values: list[float], text: str) -> None:
    assert span(values, 2) == text


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [float(number) for number in range(1, 1001)]
    assert [percentile(values, part) for part in (50, 99, 99.9, 100)] == [500, 990, 999, 1000]
    assert percentile([7.0], 50) == percentile([7.0], 99.9) == 7


def test_a_cell_of_a_page_cannot_end_its_column() -> None:
    assert markdown_table([["a", "b"], ["x|y", "z"]]) == "| a | b |\n| --- | --- |\n| x\\|y | z |"


def test_a_run_survives_json() -> None:
    run = document(*bare(charon=[1, 2], envoy=[3, 4]).workloads, *scaling(1, 2).workloads)
    run.workloads[0].failed["nginx"] = "it is not there"
    assert Document.from_json(json.loads(json.dumps(run.to_json()))) == run
