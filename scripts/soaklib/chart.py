"""The samples as a table, as a plot of characters, and as an SVG picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import NamedTuple

from scripts.soaklib.watch import Sample

_ROWS = 20
_WIDTH, _HEIGHT = 100, 8
_BARS = " ▁▂▃▄▅▆▇█"
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df")


class Chart(NamedTuple):
    """One of the quantities."""

    title: str
    value: Callable[[Sample], float]


CHARTS = (
    Chart("memory in RAM (RSS), MB", lambda sample: sample.resident / 1e6),
    Chart("memory by share (PSS), MB", lambda sample: sample.proportional / 1e6),
    Chart("descriptors", lambda sample: sample.files),
    Chart("greenlets", lambda sample: sample.greenlets),
)


def _processes(taken: Iterable[Sample]) -> list[str]:
    return list(dict.fromkeys(sample.process for sample in taken))


def table(taken: list[Sample]) -> str:
    """About twenty moments: for each process RSS/PSS in MB, descriptors, greenlets."""
    seconds = sorted({sample.second for sample in taken})
    step = max(1, len(seconds) // _ROWS)
    chosen = [*seconds[:-1:step], seconds[-1]]
    names = _processes(taken)
    at = {(sample.second, sample.process): sample for sample in taken}
    rows = [["second", *(f"{name}: RSS/PSS MB, fds, greenlets" for name in names)]]
    for second in chosen:
        row = [f"{second:.0f}"]
        for name in names:
            one = at.get((second, name))
            row.append(
                f"{one.resident / 1e6:.1f}/{one.proportional / 1e6:.1f}  {one.files:4}  {one.greenlets:4}"
                if one
                else "-"
            )
        rows.append(row)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def plot(taken: list[Sample]) -> str:
    """For each quantity and process a line of bars, from its least to its most."""
    end = max(sample.second for sample in taken) or 1.0
    lines = []
    for chart in CHARTS:
        lines.append(chart.title)
        for name in _processes(taken):
            columns: list[list[float]] = [[] for _ in range(_WIDTH)]
            for sample in taken:
                if sample.process == name:
                    columns[min(_WIDTH - 1, int(sample.second / end * _WIDTH))].append(chart.value(sample))
            known = [max(column) for column in columns if column]
            least, most = min(known), max(known)
            bars = ""
            for column in columns:
                share = (max(column) - least) / (most - least) if column and most > least else 0.0
                bars += _BARS[1 + round(share * (len(_BARS) - 2))] if column else " "
            lines.append(f"  {name:12} {least:8.1f} .. {most:8.1f}  {bars}")
    return "\n".join(lines)


def svg(taken: list[Sample], marks: list[tuple[float, str]]) -> str:
    """The same as a picture; ``marks`` are moments with what went wrong then."""
    end = max(sample.second for sample in taken) or 1.0
    width, height, left, gap = 1000, 160, 60, 40
    parts = []
    for place, chart in enumerate(CHARTS):
        top = gap + place * (height + gap)
        most = max(chart.value(sample) for sample in taken) * 1.05 or 1.0
        parts.append(f'<text x="{left}" y="{top - 8}" font-weight="bold">{escape(chart.title)}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#d0d7de"/>')
        parts.append(f'<text x="4" y="{top + 12}">{most:.0f}</text><text x="4" y="{top + height}">0</text>')
        for second, what in marks:
            x = left + second / end * width
            parts.append(f'<path d="M{x:.1f} {top}v{height}" stroke="#eaeef2"><title>{escape(what)}</title></path>')
        for number, name in enumerate(_processes(taken)):
            points = " ".join(
                f"{left + sample.second / end * width:.1f},{top + height - chart.value(sample) / most * height:.1f}"
                for sample in taken
                if sample.process == name
            )
            colour = _COLOURS[number % len(_COLOURS)]
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
            parts.append(f'<text x="{left + 200 + number * 120}" y="{top - 8}" fill="{colour}">{escape(name)}</text>')
    total = gap + len(CHARTS) * (height + gap)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + left + 20}" height="{total}" font-family="sans-serif"'
    )
    return f'{head} font-size="12"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
