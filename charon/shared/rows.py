"""Which row of the shared table is whose. The supervisor alone decides; snapshots tell the workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

NO_ROW = -1
"""There was no row left: the endpoint is carried without shared state."""


class Rows(Generic[K]):
    """Rows by key. A row that was given back is reused as late as possible: a worker that has not yet taken the newest
    snapshot may still write to it for a moment."""

    def __init__(self, count: int) -> None:
        self._rows: dict[K, int] = {}
        self._unused = 0
        self._count = count
        self._free: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def items(self) -> Collection[tuple[K, int]]:
        return self._rows.items()

    def row(self, key: K) -> int | None:
        """The row of ``key``, if it has one."""
        return self._rows.get(key)

    def assign(self, key: K) -> tuple[int, bool]:
        """The row of ``key``, and whether somebody else had it before, so that it has to be cleared."""
        row = self._rows.get(key)
        if row is not None:
            return row, False
        if self._unused < self._count:
            row, used = self._unused, False
            self._unused += 1
        elif self._free:
            row, used = self._free.popleft(), True
        else:
            return NO_ROW, False
        self._rows[key] = row
        return row, used

    def release(self, key: K) -> None:
        """Give back the row of ``key``, if it has one."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._free.append(row)
