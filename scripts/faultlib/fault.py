"""What a fault is, the register of all, and the figures that one leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.faultlib.stage import Stage


@dataclass(frozen=True)
class Size:
    """How much of a fault there is: ``seconds`` of load, or ``count`` of events, whichever it goes by."""

    seconds: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class Fault:
    """One reliability test. ``short`` is its size by default, ``full`` as its pass line is meant."""

    name: str
    setup: str
    wrong: str
    passes: str
    short: Size
    full: Size
    run: Callable[[Stage], None]


@dataclass(frozen=True)
class Figure:
    """A line of the table. ``good`` is None for what is only told."""

    title: str
    value: str
    bound: str = ""
    good: bool | None = None


@dataclass
class Report:
    """The figures of one run; ``problem`` says why it could not be finished."""

    fault: Fault
    figures: list[Figure] = field(default_factory=list)
    problem: str = ""

    @property
    def passed(self) -> bool:
        judged = [figure.good for figure in self.figures if figure.good is not None]
        return not self.problem and bool(judged) and all(judged)


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, *, setup: str, wrong: str, passes: str, short: Size, full: Size
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Enter a function into the register."""

    def enter(run: Callable[[Stage], None]) -> Callable[[Stage], None]:
        FAULTS[name] = Fault(name, setup, wrong, passes, short, full, run)
        return run

    return enter


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of ``values`` that ``percent`` of them do not exceed; 0 when there are none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def table(reports: Sequence[Report]) -> str:
    """All figures, aligned, and a verdict for each that has a bound."""
    rows = [("fault", "figure", "measured", "bound", "")]
    for report in reports:
        name = report.fault.name
        for figure in report.figures:
            verdict = "" if figure.good is None else "pass" if figure.good else "FAIL"
            rows.append((name, figure.title, figure.value, figure.bound, verdict))
            name = ""
        if report.problem:
            rows.append((name, "finished", "no, see below", "yes", "FAIL"))
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += [f"\n{report.fault.name}: {report.problem}" for report in reports if report.problem]
    return "\n".join(lines)
