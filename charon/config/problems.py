"""Mistakes as values, and how they are written: ``FILE:LINE: key.path: what is wrong, what is allowed``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from charon.base.units import quoted


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake. ``key`` is empty where the file as a whole is meant."""

    line: int
    key: str
    text: str


class ProblemAt(Exception):
    """A mistake after which there is no sense in reading on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def key_path(path: Sequence[str | int]) -> str:
    """``("listeners", 0, "timeouts")`` as ``listeners[0].timeouts``."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            plain = step.isprintable() and step and len(step) <= 60 and not any(c in " .[]:'" for c in step)
            parts.append(("." if parts else "") + (step if plain else quoted(step)))
    return "".join(parts)


def render(source: str, problems: Iterable[Problem]) -> list[str]:
    """The lines a user reads, in the order of the file, each mistake once."""
    return [f"{source}:{p.line}: {p.key + ': ' if p.key else ''}{p.text}" for p in sorted(set(problems))]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    by_folded = {name.lower().replace("-", "_"): name for name in known}
    match = difflib.get_close_matches(word[:100].lower().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[match[0]] if match else None


def one_of(words: Iterable[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
