"""What can be fuzzed: a target takes any bytes, and says whether everything that must hold of them does."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from zlib import crc32


class Violation(Exception):
    """Something that must hold does not. Every exception of a check is a finding; this one says what it is about."""


@dataclass(frozen=True)
class Target:
    """``check`` raises whatever is wrong, and returns the kind of verdict that an input came to: an input with a new
    kind is worth keeping. ``seeds`` are inputs to begin with, ``words`` what a mutation may put in.

    ``largest`` is how many bytes an input has at most, ``slow`` how many seconds of CPU it may take.
    """

    name: str
    what: str
    check: Callable[[bytes], Hashable]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]
    largest: int = 16_384
    slow: float = 0.050


TARGETS: dict[str, Target] = {}


def add(target: Target) -> None:
    """Enter ``target`` into the register."""
    TARGETS[target.name] = target


def expect(condition: object, what: str, *values: object) -> None:
    """Raises Violation unless ``condition`` holds; ``what`` is filled in with ``values`` only then."""
    if not condition:
        raise Violation(what.format(*values))


def places(data: bytes) -> tuple[int, int]:
    """Two places at which to cut ``data``, in order. They follow from the data, so that a finding can be repeated."""
    number = crc32(data)
    one, other = number % (len(data) + 1), (number >> 11) % (len(data) + 1)
    return (one, other) if one <= other else (other, one)
