"""The chart of a run: docs/benchmarks.svg. A bar for each peer and workload, as a multiple of the first reference."""

from __future__ import annotations

from html import escape
from statistics import median

from scripts.benchlib.figures import Column, Document, Measured

_COLOURS = {"charon": "#1f6feb", "envoy": "#b35ad6", "nginx": "#2da44e", "haproxy": "#d4762c"}
_LEFT, _WIDTH, _RIGHT, _BAR, _GAP, _TOP = 190, 560, 130, 13, 14, 46
_FURTHEST = 4.0
"""Ratios above it are drawn that long, and written."""

_STYLE = "text{font:12px sans-serif;fill:#222}.small{font-size:11px}.line{stroke:#888;stroke-width:1}"


def _groups(document: Document) -> list[tuple[Measured, Column, str]]:
    """What is drawn: each column of a workload whose ratio the table has, and the reference that gave figures."""
    return [
        (measured, column, measured.references[0])
        for measured in document.workloads
        for column in measured.columns
        if column.ratio and measured.references and measured.values(measured.references[0], column.key)
    ]


def chart(document: Document) -> str:
    x_of_one = _LEFT + _WIDTH / _FURTHEST
    parts: list[str] = []
    y = float(_TOP)
    for measured, column, reference in _groups(document):
        peers = [peer for peer in measured.samples if peer != reference]
        middle = y + len(peers) * _BAR / 2
        parts.append(_text(_LEFT - 8, middle - 1, measured.name, anchor="end"))
        parts.append(_text(_LEFT - 8, middle + 11, column.title, anchor="end", small=True))
        for peer in peers:
            if ratios := measured.ratios(peer, (reference,), column.key):
                parts += _bar(peer, y, ratios)
            y += _BAR
        y += _GAP
    width, height = _LEFT + _WIDTH + _RIGHT, round(y + 8)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>Multiples of Envoy</title><style>{_STYLE}</style>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    )
    line = f'<line class="line" x1="{x_of_one}" y1="{_TOP - 8}" x2="{x_of_one}" y2="{y - _GAP + 6}"/>'
    top = _text(x_of_one, _TOP - 14, "Envoy = 1; shorter is better", anchor="middle", small=True)
    return "\n".join([head, top, line, *parts, "</svg>", ""])


def _bar(peer: str, y: float, ratios: list[float]) -> list[str]:
    scale = _WIDTH / _FURTHEST
    length, low, high = (
        max(0.0, min(value, _FURTHEST)) * scale for value in (median(ratios), min(ratios), max(ratios))
    )
    colour = _COLOURS[peer.split("-")[0]]
    middle = y + _BAR / 2 - 1
    label = f"{peer} {median(ratios):.2f}"
    return [
        f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 2}" fill="{colour}"/>',
        f'<line class="line" x1="{_LEFT + low:.1f}" y1="{middle}" x2="{_LEFT + high:.1f}" y2="{middle}"/>',
        _text(_LEFT + max(length, high) + 5, y + _BAR - 3, label, small=True),
    ]


def _text(x: float, y: float, words: str, anchor: str = "start", small: bool = False) -> str:
    kind = ' class="small"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'
