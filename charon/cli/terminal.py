"""Colours, where a person reads the output on a terminal and has not asked for none (https://no-color.org)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Style:
    """Marks text for a terminal, or leaves it as it is."""

    colours: bool

    @staticmethod
    def plain(text: str) -> str:
        return text

    def bold(self, text: str) -> str:
        return self._mark("1", text)

    def red(self, text: str) -> str:
        return self._mark("31", text)

    def green(self, text: str) -> str:
        return self._mark("32", text)

    def yellow(self, text: str) -> str:
        return self._mark("33", text)

    def faint(self, text: str) -> str:
        return self._mark("2", text)

    def _mark(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colours else text


def style_for(stream: TextIO, environ: Mapping[str, str]) -> Style:
    """The style for ``stream``: plain unless it is a terminal that can show colours and ``NO_COLOR`` is not set."""
    return Style(stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb")


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of a table's row, how it is marked, and whether it stands at the right of its column, as numbers do."""

    text: str
    mark: Callable[[str], str] = Style.plain
    right: bool = False


def columns(rows: Sequence[Sequence[str | Cell]], indent: str = "  ") -> list[str]:
    """``rows`` in aligned columns; marks take no room."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    widths = [max(len(cell.text) for cell in column) for column in zip(*cells, strict=True)]
    return [indent + _row(row, widths) for row in cells]


def _row(row: Sequence[Cell], widths: Sequence[int]) -> str:
    while row and not row[-1].text:
        row = row[:-1]
    return "  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=False)).rstrip()


def _padded(cell: Cell, width: int) -> str:
    room = " " * (width - len(cell.text))
    return room + cell.mark(cell.text) if cell.right else cell.mark(cell.text) + room
