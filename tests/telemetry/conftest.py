from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from charon.telemetry.ledger import Ledger, LedgerReader
from charon.telemetry.metrics import WorkerMetrics


class Lines:
    """A sink that keeps what it gets."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self.raw: list[bytes] = []
        self.is_terminal = is_terminal

    def write(self, line: bytes) -> None:
        self.raw.append(line)

    def write_later(self, make: Callable[[Any], bytes], record: Any) -> None:
        self.raw.append(make(record))

    def last(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.raw[-1])
        return fields

    def last_text(self) -> str:
        return self.raw[-1].decode()


class Counting(WorkerMetrics):
    """A worker's metrics, and beside them the supervisor that reads its ledger."""

    def __init__(self, max_series: int = 1000, slots: int = 1 << 15) -> None:
        ledger = Ledger.create(slots)
        super().__init__(ledger, max_series, wall=lambda: 1000.0)
        self.reader = LedgerReader(ledger)

    def delta(self) -> dict[str, Any]:
        """What a report of it comes to."""
        return {**self.collect(), **self.reader.take()}


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def terminal() -> Lines:
    return Lines(is_terminal=True)
