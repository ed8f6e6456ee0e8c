"""The commands that the documents tell users to type, and which of them were run."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.packagelib.machine import PROJECT, Machine

_HEADING = re.compile(r"^##+ (.*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PROGRAMS = "packaging/|charon-activate|(?:charon|systemctl|apt|apt-get|dnf|rpm|logrotate|journalctl|runuser|man) "
_INLINE = re.compile(f"`((?:{_PROGRAMS})[^`]*)`")
"""A command within a sentence: it begins with a program, which ``charon`` alone is not (a user, a package)."""

PAGE = PROJECT / "docs/operations.md"
README = PROJECT / "README.md"


class Manual:
    """A page, by its sections: blocks of commands, and commands within sentences. ``only``: of these sections alone."""

    def __init__(self, page: Path = PAGE, only: tuple[str, ...] = ()) -> None:
        parts = _HEADING.split(page.read_text(encoding="utf-8"))
        sections = {
            title: text for title, text in zip(parts[1::2], parts[2::2], strict=True) if not only or title in only
        }
        self._blocks = {title: _BLOCK.findall(text) for title, text in sections.items()}
        self._inline = {command for text in sections.values() for command in _INLINE.findall(_FENCED.sub("", text))}
        self._run: set[tuple[str, int]] = set()
        self._said: set[str] = set()

    def block(self, title: str, block: int = 0) -> str:
        """A block of the section ``title``, which the caller now runs."""
        self._run.add((title, block))
        self._said.update(self._blocks[title][block].splitlines())
        return self._blocks[title][block]

    def play(self, machine: Machine, title: str, block: int = 0, *, check: bool = True, seconds: float = 300) -> str:
        """Run a block of the section ``title`` as it stands there. Returns what it printed."""
        return machine.run(self.block(title, block), check=check, seconds=seconds)

    def say(self, machine: Machine, command: str) -> str:
        """Run a command that stands within a sentence. Returns what it printed. Raises KeyError when none is there."""
        self.elsewhere(command)
        return machine.run(command)

    def elsewhere(self, command: str) -> None:
        """A command within a sentence that the test runs in another form. Raises KeyError when it is not there."""
        if command not in self._inline:
            raise KeyError(command)
        self._said.add(command)

    def left(self) -> list[str]:
        """What nobody has run."""
        every = {(title, number) for title, blocks in self._blocks.items() for number in range(len(blocks))}
        blocks = [f"{title}, block {number + 1}" for title, number in sorted(every - self._run)]
        return blocks + sorted(self._inline - self._said)
