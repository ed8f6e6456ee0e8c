"""The page, the chart, and the commands that read a run again."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from scripts.benchlib import __main__ as command
from scripts.benchlib.chart import chart
from scripts.benchlib.figures import Document
from scripts.benchlib.page import page
from tests.bench.runs import bare

SVG = "{http://www.w3.org/2000/svg}"
RUN = bare(charon=[9, 10, 11], envoy=[10, 10, 10], nginx=[5, 5, 5])


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands write instead."""
    monkeypatch.setattr(command, "DOCS", tmp_path)
    monkeypatch.setattr(command, "RECORD", tmp_path / "benchmarks.json")
    monkeypatch.setattr(command, "LAST", tmp_path / "last.json")
    return tmp_path


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scripts/bench", *map(str, arguments)])
    return command.main()


def saved(run: Document, path: Path) -> Path:
    path.write_text(json.dumps(run.to_json()), encoding="utf-8")
    return path


def test_the_page_says_what_was_reached_on_what_and_how() -> None:
    run = bare(charon=[9, 10, 11], envoy=[10, 10, 10])
    run.peers["haproxy"] = {
        "program": "haproxy",
        "settings": "s",
        "version": "-",
        "missing": "haproxy is not installed",
    }
    run.peers["charon"]["configuration"] = "the configuration of charon"
    run.workloads[0].failed["nginx"] = "it ended"
    text = page(run)
    for part in (
        "| HTTP keep-alive, bare: CPU | ≤ 0.9 × envoy | 1.00 (0.90–1.10) | missed |",
        "### http-bare",
        "| charon | 10.0 (9.0–11.0) | 1.00 (0.90–1.10) |",
        "- nginx: none: it ended",
        "- haproxy was left out: haproxy is not installed",
        "charon 1.2, envoy 1.2",
        "```\nthe configuration of charon\n```",
        "3\ninterleaved rounds of 3 s",
    ):
        assert part in text
    assert "{" not in text


def test_a_workload_that_did_not_run_says_why() -> None:
    run = bare()
    run.workloads[0].failed["*"] = "no network namespace"
    assert "\n- not run: no network namespace\n" in page(run)


def test_the_chart_has_a_bar_for_each_peer_as_long_as_its_ratio() -> None:
    picture = xml.fromstring(chart(RUN))
    bars = [float(bar.attrib["width"]) for bar in picture.findall(f"{SVG}rect")[1:]]
    assert len(bars) == 2 and bars[1] == bars[0] / 2
    labels = [text.text for text in picture.findall(f"{SVG}text")]
    assert "charon 1.00" in labels and "nginx 0.50" in labels and "envoy 1.00" not in labels


def test_a_bar_that_is_too_long_is_cut_and_still_says_how_long() -> None:
    picture = xml.fromstring(chart(bare(charon=[1000], envoy=[1])))
    assert float(picture.findall(f"{SVG}rect")[1].attrib["width"]) < float(picture.attrib["width"])
    assert "charon 1000.00" in [text.text for text in picture.findall(f"{SVG}text")]


def test_a_report_is_written_from_the_last_run_or_from_a_file(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench(monkeypatch, "report") == 2  # there was none
    saved(RUN, docs / "last.json")
    assert bench(monkeypatch, "report") == 0
    assert {path.name for path in docs.iterdir()} == {
        *("last.json", "benchmarks.json", "benchmarks.md", "benchmarks.svg")
    }
    assert bench(monkeypatch, "report", saved(bare(charon=[8], envoy=[10]), docs / "other.json")) == 0
    assert "| charon | 8.0 | 0.80 |" in (docs / "benchmarks.md").read_text(encoding="utf-8")


def test_a_check_fails_when_a_ratio_got_worse(
    docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = saved(RUN, docs / "last.json")
    assert bench(monkeypatch, "--check") == 2  # nothing is recorded
    assert bench(monkeypatch, "report") == 0
    assert bench(monkeypatch, "--check", last) == 0
    saved(bare(charon=[12, 13, 14], envoy=[10, 10, 10]), last)
    capsys.readouterr()
    assert bench(monkeypatch, "report", "--check") == 1  # which is then the record
    assert bench(monkeypatch, "--check") == 0
    assert "worse: http-bare: CPU µs/request, charon ÷ envoy: 1.30 (1.20–1.40), recorded 1.00 (0.90–1.10)" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "words",
    [["http-bare", "nonsense"], [], ["x.json"], ["report", "x.json", "http-bare"], ["http-bare", "--write"]],
)
def test_what_cannot_be_meant_is_refused(docs: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench(monkeypatch, *words)
    assert refused.value.code == 2
