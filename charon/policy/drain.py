"""Ending connections that would go on for ever, one after the other: a pure decision."""

from __future__ import annotations

from typing import Final

SPREAD: Final = 1 / 3
"""The last part of the time to drain, in which they are ended. Until then nothing is cut."""


def ending(count: int, elapsed: float, timeout: float, step: float, chance: float) -> int:
    """Of ``count`` connections that are still open, how many to end now, so that the last one goes as the time is up.

    ``elapsed`` of ``timeout`` seconds have passed; the question is asked every ``step`` seconds. ``chance`` is a
    number from 0 up to, not including, 1: it decides about the part of a connection.
    """
    if elapsed < timeout * (1 - SPREAD):
        return 0
    left = timeout - elapsed
    if left <= step:
        return count
    return min(count, int(count * step / left + chance))
