"""The shared table: float64 words in one anonymous file, mapped by the supervisor and all workers.

Words are read without a lock, and changed under one. The locks are ``flock``, which the kernel releases when their
holder dies, so a killed worker blocks nobody. Times are CLOCK_MONOTONIC seconds, which all processes share.

Areas, in this order:

- endpoint rows, handed out by the supervisor (a row is in use while a snapshot names it);
- requests in flight, one word for each row in each worker slot, written by that slot alone;
- retry budgets, one window of cells for each row in each worker slot, written by that slot alone;
- buckets of rate limits whose keys are configured, and those whose keys clients choose;
- open connections by client, one area for each worker slot, written by that slot alone;
- adaptive concurrency, for each service the state of its limit and a word of each worker slot, its requests under way.

The file is sparse: what is never touched takes no memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Final

ROWS: Final = 1 << 17
ROW_WORDS: Final = 32
BUDGET_WORDS: Final = 32
SERVICE_ROWS: Final = 1 << 14
NAMED_KEYS: Final = 1 << 14
CLIENT_KEYS: Final = 1 << 18
CONNECTION_KEYS: Final = 1 << 15
CONCURRENCY_WORDS: Final = 16
_WORD: Final = 8
_NO_ROW_WORDS: Final = memoryview(bytes(ROW_WORDS * _WORD)).cast("d")
_NO_BUDGET_WORDS: Final = memoryview(bytes(BUDGET_WORDS * _WORD)).cast("d")


class Lock:
    """One exclusive lock of the table, held by one process at a time and only for microseconds: it blocks.

    ``acquire`` and ``release`` are for what every request does: a call less than ``with``.
    """

    __slots__ = ("acquire", "release")

    acquire: Callable[[], None]
    release: Callable[[], None]

    def __init__(self, fd: int) -> None:
        self.acquire = partial(fcntl.flock, fd, fcntl.LOCK_EX)
        self.release = partial(fcntl.flock, fd, fcntl.LOCK_UN)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class NoLock(Lock):
    """In place of a lock that nobody else would ever ask for."""

    __slots__ = ()

    def __init__(self) -> None:
        self.acquire = self.release = lambda: None


class SharedTable:
    """One process's view. ``slots`` is the number of worker slots it was made for.

    ``endpoints`` locks endpoint rows, ``limits`` everything about rate and connection limits. Limits are the workers'
    own business, so that a single worker needs no lock for them.
    """

    def __init__(self, fd: int, slots: int, lock_fds: tuple[int, int]) -> None:
        self.fd = fd
        self.slots = slots
        self.lock_fds = lock_fds
        self._memory = mmap.mmap(fd, _size(slots))
        self.words = memoryview(self._memory).cast("d")
        # flock belongs to an open file description: each process needs descriptions of its own.
        self.endpoints = Lock(_own_description(lock_fds[0]))
        self.limits = Lock(_own_description(lock_fds[1])) if slots > 1 else NoLock()
        self._in_flight = ROWS * ROW_WORDS
        self._budgets = self._in_flight + slots * ROWS
        self._named = self._budgets + slots * SERVICE_ROWS * BUDGET_WORDS
        self._clients = self._named + 2 * NAMED_KEYS
        self._connections = self._clients + 2 * CLIENT_KEYS
        self._concurrency = self._connections + slots * 2 * CONNECTION_KEYS

    @classmethod
    def create(cls, slots: int) -> SharedTable:
        """A new table, all words 0. Raises OSError."""
        fd = os.memfd_create("charon-table", os.MFD_CLOEXEC)
        os.ftruncate(fd, _size(slots))
        first = os.memfd_create("charon-lock-endpoints", os.MFD_CLOEXEC)
        second = os.memfd_create("charon-lock-limits", os.MFD_CLOEXEC)
        return cls(fd, slots, (first, second))

    def row(self, index: int) -> int:
        """Where endpoint row ``index`` begins; it has ``ROW_WORDS`` words."""
        return index * ROW_WORDS

    def in_flight_cells(self, row: int) -> range:
        """The words that count requests in flight to ``row``, in the order of the slots."""
        first = self._in_flight + row
        return range(first, first + self.slots * ROWS, ROWS)

    def budget_cells(self, service_row: int, slot: int) -> int:
        """Where the retry window of a service begins for one slot; it has ``BUDGET_WORDS`` words."""
        return self._budgets + (slot * SERVICE_ROWS + service_row) * BUDGET_WORDS

    def named_keys(self) -> memoryview[float]:
        """Pairs of words for buckets whose keys stand in the configuration."""
        return self.words[self._named : self._clients]

    def client_keys(self) -> memoryview[float]:
        """Pairs of words for buckets whose keys clients choose."""
        return self.words[self._clients : self._connections]

    def connection_keys(self, slot: int) -> memoryview[float]:
        """Pairs of words for one slot's open connections by client."""
        first = self._connections + slot * 2 * CONNECTION_KEYS
        return self.words[first : first + 2 * CONNECTION_KEYS]

    def concurrency_cells(self, service_row: int) -> int:
        """Where the limit of a service begins: ``CONCURRENCY_WORDS`` words, then one of each slot."""
        return self._concurrency + service_row * (CONCURRENCY_WORDS + self.slots)

    def clear_slot(self, slot: int, rows: Iterable[int]) -> None:
        """A worker is gone: nothing is in flight in its slot any more, and no connection is open."""
        for row in rows:
            self.words[self._in_flight + slot * ROWS + row] = 0.0
        keys = self.connection_keys(slot)
        with self.limits:
            keys[:] = memoryview(bytes(len(keys) * _WORD)).cast("d")

    def clear_service_row(self, row: int) -> None:
        """A service's row begins anew: no request and no retry has been counted, and its limit is not known."""
        limit = self.concurrency_cells(row)
        size = CONCURRENCY_WORDS + self.slots
        self.words[limit : limit + size] = memoryview(bytes(size * _WORD)).cast("d")
        for slot in range(self.slots):
            first = self.budget_cells(row, slot)
            self.words[first : first + BUDGET_WORDS] = _NO_BUDGET_WORDS

    def clear_row(self, row: int) -> None:
        """A row begins anew: nothing is known of its endpoint, and nothing is in flight."""
        first = self.row(row)
        with self.endpoints:
            self.words[first : first + ROW_WORDS] = _NO_ROW_WORDS
        for cell in self.in_flight_cells(row):
            self.words[cell] = 0.0


def _size(slots: int) -> int:
    words = ROWS * ROW_WORDS + slots * (ROWS + SERVICE_ROWS * BUDGET_WORDS + 2 * CONNECTION_KEYS)
    words += SERVICE_ROWS * (CONCURRENCY_WORDS + slots)
    return (words + 2 * NAMED_KEYS + 2 * CLIENT_KEYS) * _WORD


def _own_description(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
