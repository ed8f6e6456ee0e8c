"""docs/operations.md as a script: the commands of its sections, and which of them were run."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.packagelib.machine import PROJECT, Machine

_HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Manual:
    """The page, by its sections."""

    def __init__(self, page: Path = PROJECT / "docs/operations.md") -> None:
        parts = _HEADING.split(page.read_text(encoding="utf-8"))
        self._blocks = {title: _BLOCK.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}
        self._run: set[tuple[str, int]] = set()

    def play(self, machine: Machine, title: str, block: int = 0, *, check: bool = True, seconds: float = 120) -> str:
        """Run a block of the section ``title`` as it stands there. Returns what it printed."""
        self._run.add((title, block))
        return machine.run(self._blocks[title][block], check=check, seconds=seconds)

    def left(self) -> list[str]:
        """What nobody has run."""
        every = {(title, number) for title, blocks in self._blocks.items() for number in range(len(blocks))}
        return [f"{title}, block {number + 1}" for title, number in sorted(every - self._run)]
