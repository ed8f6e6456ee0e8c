"""The reliability tests of scripts/faults can be run: some of the shortest, as small as they can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def faults(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.faultlib", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("name", "size", "figures"),
    [
        pytest.param(
            *("retry-load", ("--seconds", "2"), ("30% of 503: upstreams see", "100% of 503: upstreams see")),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("websockets", ("--count", "20"), ("WebSockets ended", "reloads after which not all echoed")),
            marks=pytest.mark.slow,
        ),
        ("rate-limit-keys", ("--count", "2000"), ("keys that passed", "one value, twenty times")),
        ("totals", ("--count", "2000"), ("counted", "latencies observed", "counters that fell")),
    ],
)
def test_a_fault_is_played_and_its_figures_are_told(name: str, size: tuple[str, str], figures: tuple[str, ...]) -> None:
    ran = faults(name, *size, "--workers", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for figure in figures:
        (line,) = (line for line in ran.stdout.splitlines() if figure in line)
        assert line.endswith("pass")


def test_the_list_says_what_passes() -> None:
    ran = faults("--list")
    assert ran.returncode == 0
    assert ran.stdout.count("\n  passes ") == ran.stdout.count("\n  wrong ") > 5


def test_a_name_that_is_none_is_wrong_usage() -> None:
    ran = faults("no-such-fault")
    assert ran.returncode == 2 and "no-such-fault" in ran.stderr
