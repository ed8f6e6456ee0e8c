"""The ledger: a worker's counters, in memory that the supervisor has mapped as well.

A worker that is killed has no time to say what it has counted since its last report. What stands in its ledger is
there all the same: the supervisor reads it a last time when the process is gone. Counting costs the worker one word
of memory, reading nothing at all.

One anonymous file of slots, each 1 KiB: two words of head, up to ``VALUE_WORDS`` values, family and labels as JSON.
Slot 0 holds how many slots were ever in use and takes what is to be counted nowhere; then comes a slot for each
family's overflow; then those that are handed out. Every word has one writer at a time: a slot belongs to the worker
until it is ``RETIRED``, then to the supervisor until it is ``FREE``. No order of death leaves a series half there: its
state is written last, its name before it.

A worker touches peers' bytes: the supervisor believes nothing that it reads here before it has checked it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import orjson

from charon.telemetry.families import FAMILIES, OVERFLOW, Family

Labels = tuple[str, ...]

FREE: Final = 0.0
USED: Final = 1.0
RETIRED: Final = 2.0

SLOT_BYTES: Final = 1024
_WORD: Final = 8
_SLOT_WORDS: Final = SLOT_BYTES // _WORD
_LENGTH: Final = 1
_VALUES: Final = 2
VALUE_WORDS: Final = 30
_NAME: Final = (_VALUES + VALUE_WORDS) * _WORD
MAX_NAME: Final = SLOT_BYTES - _NAME
"""Bytes of a series' family and labels as JSON; a series for which they do not do is counted as overflow."""

NOWHERE: Final = _VALUES
"""Where the values of series go that nobody wants any more."""

_OVERFLOWS: Final = {name: number for number, name in enumerate(FAMILIES, 1)}
_FIRST: Final = len(FAMILIES) + 1
SLOTS: Final = 1 << 15
"""Room for every family at its full number of series. The file is sparse: slots never used take no memory."""


def values_of(family: Family) -> int:
    """Words of one series: one, or for a histogram one for each bucket, the infinite one too, and one for the sum."""
    return len(family.buckets) + 2 if family.kind == "histogram" else 1


class Ledger:
    """The worker's view. What :meth:`open` gives is where to add in ``words``."""

    def __init__(self, fd: int, slots: int = SLOTS) -> None:
        self.fd = fd
        self.slots = slots
        self._memory = mmap.mmap(fd, slots * SLOT_BYTES)
        self.words = memoryview(self._memory).cast("d")
        self._retired: deque[int] = deque()
        self._top = max(int(self.words[0]), _FIRST - 1)
        self.words[0] = float(self._top)

    @classmethod
    def create(cls, slots: int = SLOTS) -> Ledger:
        """An empty one. Raises OSError."""
        fd = os.memfd_create("charon-ledger", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, slots * SLOT_BYTES)
        # A worker that cut it short would have the supervisor killed when it reads what is no longer there (SIGBUS).
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(fd, slots)

    def open(self, family: Family, labels: Labels) -> int | None:
        """Where the values of a new series begin; None when there is no room for it."""
        encoded = orjson.dumps((family.name, *labels))
        if len(encoded) > MAX_NAME:
            return None
        slot = self._free_slot()
        return None if slot is None else self._define(slot, encoded)

    def overflow(self, family: Family) -> int:
        """Where the values of the series begin that takes what a family has no room for."""
        slot = _OVERFLOWS[family.name]
        if self.words[slot * _SLOT_WORDS] == USED:
            return slot * _SLOT_WORDS + _VALUES
        return self._define(slot, orjson.dumps((family.name, *(OVERFLOW for _ in family.labels))))

    def retire(self, at: int) -> None:
        """The series whose values begin at ``at`` gets no more of them. Its slot comes back once it has been read."""
        slot = at // _SLOT_WORDS
        if slot >= _FIRST:
            self.words[slot * _SLOT_WORDS] = RETIRED
            self._retired.append(slot)

    def _free_slot(self) -> int | None:
        if self._retired and self.words[self._retired[0] * _SLOT_WORDS] == FREE:
            return self._retired.popleft()
        if self._top + 1 < self.slots:
            self._top += 1
            return self._top
        return None

    def _define(self, slot: int, encoded: bytes) -> int:
        start, words = slot * _SLOT_WORDS, self.words
        name_at = slot * SLOT_BYTES + _NAME
        self._memory[name_at : name_at + len(encoded)] = encoded
        words[start + _LENGTH] = float(len(encoded))
        words[start] = USED
        words[0] = float(self._top)
        return start + _VALUES


@dataclass(slots=True)
class _Series:
    family: Family
    labels: list[str]
    unpack: Callable[[bytes], tuple[float, ...]]
    size: int
    raw: bytes = b""


class LedgerReader:
    """The supervisor's view of one worker's ledger: what was added since it was last read."""

    def __init__(self, ledger: Ledger) -> None:
        self.fd = ledger.fd
        self._slots = ledger.slots
        self._memory = ledger._memory
        self._words = ledger.words
        self._known: dict[int, _Series] = {}

    def take(self) -> dict[str, dict[str, list[Any]]]:
        """``counters`` and ``histograms`` as :class:`charon.telemetry.exposition.Totals` adds them. A series is in it
        when it is new or has grown. Slots that the worker has retired are given back to it.

        ValueError when something in the ledger cannot be. What was read before is not read again.
        """
        taken: dict[str, dict[str, list[Any]]] = {"counters": {}, "histograms": {}}
        memory, known = self._memory, self._known
        top = self._words[0]
        if not 0.0 <= top < self._slots:
            raise ValueError("a ledger holds more slots than it has")
        for slot in range(1, int(top) + 1):
            start = slot * SLOT_BYTES
            series = known.get(slot)
            if series is None:
                if self._words[slot * _SLOT_WORDS] == FREE:
                    continue
                series = known[slot] = self._definition(slot)
            raw = memory[start : start + series.size]
            if raw != series.raw:
                self._grown(series, raw, taken)
                if series.unpack(raw)[0] == RETIRED:  # as of before its values were read, which so are its last
                    self._give_back(slot)
        return taken

    def close(self) -> None:
        """Let go of the memory. The worker is gone."""
        self._words.release()
        self._memory.close()
        os.close(self.fd)

    def _definition(self, slot: int) -> _Series:
        start = slot * _SLOT_WORDS
        length = self._words[start + _LENGTH]
        if not 0.0 <= length <= MAX_NAME:
            raise ValueError("a ledger has a series without a name")
        name_at = slot * SLOT_BYTES + _NAME
        name = orjson.loads(self._memory[name_at : name_at + int(length)])
        if not isinstance(name, list) or not name or not all(isinstance(part, str) for part in name):
            raise ValueError("a ledger has a series without a name")
        family, labels = FAMILIES.get(name[0]), name[1:]
        if family is None or family.kind == "gauge":
            raise ValueError(f"{name[0]} is not counted in a ledger")
        words = struct.Struct(f"{_VALUES + values_of(family)}d")
        return _Series(family, labels, words.unpack, words.size)

    @staticmethod
    def _grown(series: _Series, raw: bytes, taken: dict[str, dict[str, list[Any]]]) -> None:
        values = series.unpack(raw)[_VALUES:]
        before = series.unpack(series.raw)[_VALUES:] if series.raw else (0.0,) * len(values)
        grown = [now - then for now, then in zip(values, before, strict=True)]
        if not all(isfinite(amount) and amount >= 0 for amount in grown):
            raise ValueError(f"{series.family.name} went backwards in a ledger")
        series.raw = raw
        item = [series.labels, grown[0]]
        if series.family.kind == "histogram":
            *counts, total = grown
            item = [series.labels, [int(count) for count in counts], total]
        taken[series.family.kind + "s"].setdefault(series.family.name, []).append(item)

    def _give_back(self, slot: int) -> None:
        start, size = slot * _SLOT_WORDS, self._known.pop(slot).size // _WORD
        for word in range(start + _VALUES, start + size):
            self._words[word] = 0.0
        self._words[start] = FREE
