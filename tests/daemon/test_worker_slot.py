"""When a silent worker is taken for stuck."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from charon.base.names import Event
from charon.daemon import worker_slot
from charon.daemon.worker_slot import STARTING_SECONDS, WorkerSlot


class Process:
    """Runs until it is killed."""

    def __init__(self) -> None:
        self.pid = 1
        self.killed = False

    def poll(self) -> int | None:
        return -9 if self.killed else None

    def send_signal(self, number: int) -> None:
        """Its last words."""

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def slot(told: list[str], monkeypatch: pytest.MonkeyPatch) -> WorkerSlot:
    monkeypatch.setattr(worker_slot, "_LAST_WORDS", 0.0)
    nothing: Any = None
    events: Any = SimpleNamespace(error=lambda event, **fields: told.append(event))
    slot = WorkerSlot(
        0, 1, nothing, nothing, nothing, nothing, -1, nothing, events, nothing, lambda slot, absent: None
    )  # fmt: skip
    slot._process = Process()  # type: ignore[assignment]
    return slot


def seconds_until_ended(slot: WorkerSlot, grace: float) -> int:
    process: Any = slot._process
    for second in range(1, 200):
        slot.beat(grace)
        if process.killed:
            return second
    raise AssertionError("it is never ended")


def test_one_that_serves_is_ended_after_its_grace(slot: WorkerSlot, told: list[str]) -> None:
    slot.ready.set()
    assert seconds_until_ended(slot, 10) == 11
    assert told == [Event.WORKER_BLOCKED]


def test_one_that_starts_is_given_longer(slot: WorkerSlot) -> None:
    assert seconds_until_ended(slot, 10) == STARTING_SECONDS + 1


def test_but_never_less_than_the_grace(slot: WorkerSlot) -> None:
    assert seconds_until_ended(slot, 60) == 61
