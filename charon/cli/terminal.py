"""Colours, where a person reads the output on a terminal and has not asked for none (https://no-color.org)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Style:
    """Marks text for a terminal, or leaves it as it is."""

    colours: bool

    def bold(self, text: str) -> str:
        return self._mark("1", text)

    def red(self, text: str) -> str:
        return self._mark("31", text)

    def green(self, text: str) -> str:
        return self._mark("32", text)

    def _mark(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colours else text


def style_for(stream: TextIO, environ: Mapping[str, str]) -> Style:
    """The style for ``stream``: plain unless it is a terminal that can show colours and ``NO_COLOR`` is not set."""
    return Style(stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb")
