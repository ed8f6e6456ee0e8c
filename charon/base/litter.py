"""Cleaning up after what is replaced as a whole.

What a snapshot replaces (listeners, their servers, contexts of TLS) refers to itself in circles, which only the
collector finds. By itself that would hardly ever run here: its thresholds are high, and it does not see what OpenSSL
has behind a small object.
"""

from __future__ import annotations

import gc
from math import inf
from typing import Final

REST_SECONDS: Final = 10.0
"""How long after a change is cleaned up: several in a row are one, and what they replaced is out of use."""


class Litter:
    """Whether there is any, and when it is time to collect it. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._due = inf

    def dropped(self, now: float) -> None:
        """Something has been replaced."""
        self._due = min(self._due, now + REST_SECONDS)

    def look(self, now: float) -> bool:
        """Collect it if it is time to, which takes milliseconds. Returns whether that was done."""
        if now < self._due:
            return False
        self._due = inf
        gc.collect()
        return True
