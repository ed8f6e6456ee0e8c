"""Whether a run is worse than the recorded one: by ratios, so that the machine's speed is out of it."""

from __future__ import annotations

from statistics import median
from typing import Any

from scripts.benchlib.figures import COMMON, Document, span

ALLOWANCE = 0.05
"""Of a recorded median, where its rounds agreed better than runs do."""


class NotComparableError(Exception):
    """The two have nothing in common; the text says why."""


def recorded(document: Document) -> dict[str, Any]:
    """What is kept of a run: medians of all figures, and each ratio's lowest, median and highest."""
    medians = {
        measured.name: {
            peer: {
                column.key: round(median(values), 4)
                for column in (*measured.columns, *COMMON)
                if (values := measured.values(peer, column.key))
            }
            for peer in measured.samples
        }
        for measured in document.workloads
    }
    ratios = {
        key: [round(value, 4) for value in (min(values), median(values), max(values))]
        for key, (values, _higher) in _ratios(document).items()
    }
    kept = {"date": document.date, "machine": document.machine, "versions": document.versions()}
    return {**kept, "options": document.options, "medians": medians, "ratios": ratios}


def _ratios(document: Document) -> dict[str, tuple[list[float], bool]]:
    """Of Charon in all its variants, under a name each; and whether more is better."""
    return {
        f"{measured.name}: {column.title}, {peer} ÷ {name}": (values, column.higher)
        for measured in document.workloads
        for peer, name, column, values in measured.compared()
        if peer.startswith("charon")
    }


def compare(document: Document, record: dict[str, Any]) -> tuple[int, list[str]]:
    """How many ratios are in both, and a line for each that got worse: its best round is worse than the worst one
    recorded, and off the recorded median by more than ``ALLOWANCE``. NotComparableError when none is in both, or the
    work was not the same."""
    if document.options["access_log"] != record["options"]["access_log"]:
        raise NotComparableError("one has the access log on, the other off")
    common = {key: found for key, found in _ratios(document).items() if key in record["ratios"]}
    if not common:
        raise NotComparableError("no ratio is in both")
    worse = []
    for key, (values, higher) in common.items():
        low, middle, high = record["ratios"][key]
        best = max(values) if higher else min(values)
        margin = ALLOWANCE * abs(middle)
        if best < min(low, middle - margin) if higher else best > max(high, middle + margin):
            worse.append(f"{key}: {span(values, 2)}, recorded {span([low, middle, high], 2)}")
    return len(common), worse
