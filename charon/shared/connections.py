"""How many connections each client has open, in all workers together.

Each worker slot writes an area of its own and reads those of all; a worker's death empties its area. An area is sets of
eight hashes and eight counts. A client for whom its set has no room is not counted: a limit then lets it pass, which is
the lesser evil.
"""

from __future__ import annotations

from typing import Final

from charon.policy.ratelimit import key_hash
from charon.shared.table import CONNECTION_KEYS, SharedTable

_WAYS: Final = 8
_STRIDE: Final = 2 * _WAYS
_SETS: Final = CONNECTION_KEYS // _WAYS


class ClientConnections:
    """The counts as one worker sees and changes them."""

    def __init__(self, table: SharedTable, slot: int, secret: bytes) -> None:
        self._lock = table.limits
        self._secret = secret
        self._own = table.connection_keys(slot)
        self._all = [table.connection_keys(index) for index in range(table.slots)]

    def open(self, listener: str, client: str, limit: int) -> float | None:
        """Count one more connection of ``client``. Returns what to give to :meth:`close`, or None if there are
        ``limit`` already."""
        hashed = self._hash(listener, client)
        start = int(hashed) % _SETS * _STRIDE
        with self._lock:
            if sum(_count(area, start, hashed) for area in self._all) >= limit:
                return None
            area = self._own
            place = _place(area, start, hashed)
            if place is not None:
                area[place] = hashed
                area[place + _WAYS] += 1.0
        return hashed

    def close(self, hashed: float) -> None:
        """A connection that was counted has ended."""
        area = self._own
        start = int(hashed) % _SETS * _STRIDE
        for place in range(start, start + _WAYS):
            if area[place] == hashed and area[place + _WAYS] > 0.0:
                area[place + _WAYS] -= 1.0
                return

    def _hash(self, listener: str, client: str) -> float:
        # 52 bits are exact in a float64, and never 0.
        return float((key_hash(f"{listener}\0{client}".encode(), self._secret) >> 12) | 1)


def _count(area: memoryview[float], start: int, hashed: float) -> float:
    return sum(area[p + _WAYS] for p in range(start, start + _WAYS) if area[p] == hashed)


def _place(area: memoryview[float], start: int, hashed: float) -> int | None:
    free = None
    for place in range(start, start + _WAYS):
        if area[place] == hashed:
            return place
        if free is None and not area[place + _WAYS]:
            free = place
    return free
