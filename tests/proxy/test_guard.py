"""What one worker does about too much work, too much memory and a lack of room, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from charon.base.names import Metric
from charon.config.snapshot import OverloadSpec
from charon.net.capacity import Capacity
from charon.proxy import guard as guard_module
from charon.proxy.guard import Guard
from charon.telemetry.events import EventLog
from charon.telemetry.sink import LogSink
from tests.telemetry.conftest import Counting

MB = 1 << 20


class Idle:
    """Something with idle connections: how often it was asked to close them."""

    def __init__(self) -> None:
        self.closed = 0

    def close_idle(self) -> None:
        self.closed += 1


class Worker:
    """A guard with what it looks after, at times that the test gives."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, spec: OverloadSpec) -> None:
        self.log = folder / "log"
        self.sink = LogSink(str(self.log))
        self.metrics = Counting()
        self.capacity = Capacity(1024)
        self.hopeless = 0
        self.given_back = 0
        self.resident = 50 * MB
        self.clients, self.pool = Idle(), Idle()
        self.guard = Guard(self.capacity, EventLog(self.sink), self.metrics, self._hopeless)
        monkeypatch.setattr(self.guard._process, "resident_bytes", lambda: self.resident)
        monkeypatch.setattr(guard_module, "give_back", self._give_back)
        self.guard.apply(spec, 0.0)

    def _hopeless(self) -> None:
        self.hopeless += 1

    def _give_back(self) -> None:
        self.given_back += 1

    def look(self, now: float) -> None:
        self.guard.look(now, [self.clients], [self.pool])

    def events(self) -> list[dict[str, Any]]:
        self.sink.close()
        return [orjson.loads(line) for line in self.log.read_bytes().splitlines()]

    def said(self) -> list[tuple[str, Any]]:
        return [(line["message"], line.get("cause")) for line in self.events()]

    def counted(self, family: str) -> dict[str, float]:
        self.guard.report()
        return {labels[0]: amount for labels, amount in self.metrics.delta()["counters"].get(family, [])}


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(tmp_path, monkeypatch, OverloadSpec(max_loop_lag=0.1, max_memory=100 * MB))


def late(worker: Worker, *lags: float, since: float = 1.0) -> None:
    for number, lag in enumerate(lags):
        worker.guard.look_at_lag(lag, since + number)


def test_nothing_is_turned_away_while_the_worker_keeps_up(worker: Worker) -> None:
    late(worker, *[0.05] * 100)
    assert not worker.guard.shedding and worker.said() == []


def test_overload_is_told_when_it_begins_and_when_it_is_over(worker: Worker) -> None:
    late(worker, 0.2, 0.2)
    assert not worker.guard.shedding
    late(worker, 0.2, 0.2, 0.2, 0.2, since=3.0)
    assert worker.guard.shedding and worker.guard.causes == ["loop_lag"]
    shed = sum(worker.guard.sheds() for _ in range(100))
    assert 0 < shed < 100
    assert worker.counted(Metric.OVERLOAD_SHED) == {"loop_lag": shed}
    late(worker, 0.0, 0.0, since=10.0)
    assert not worker.guard.shedding and worker.guard.causes == []
    assert worker.said() == [("overload_started", "loop_lag"), ("overload_ended", "loop_lag")]


def test_memory_is_given_back_step_by_step(worker: Worker) -> None:
    def steps() -> tuple[int, int, int, bool]:
        return worker.clients.closed, worker.pool.closed, worker.given_back, worker.guard.shedding

    worker.look(0.0)
    assert steps() == (0, 0, 0, False)
    worker.resident = 101 * MB
    worker.look(2.0)
    worker.look(2.2)
    assert steps() == (1, 0, 1, False), "that has a moment to help"
    worker.look(4.0)
    assert steps() == (2, 1, 2, False) and not worker.capacity.full(lambda: None)
    worker.look(6.0)
    assert steps() == (3, 2, 3, True) and worker.capacity.full(lambda: None)
    assert all(worker.guard.sheds() for _ in range(10)), "all of it"
    worker.resident = 89 * MB
    worker.look(8.0)
    assert steps() == (3, 2, 3, False) and not worker.capacity.full(lambda: None)
    assert not worker.hopeless


def test_a_worker_that_nothing_helps_is_to_be_replaced(worker: Worker) -> None:
    worker.resident = 200 * MB
    for now in (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0):
        worker.look(now)
        assert not worker.hopeless
    worker.look(18.0)
    assert worker.hopeless == 1


def test_settings_that_go_end_what_they_have_begun(worker: Worker) -> None:
    late(worker, *[0.2] * 5)
    worker.resident = 200 * MB
    for now in (2.0, 4.0, 6.0):
        worker.look(now)
    assert worker.guard.causes == ["loop_lag", "memory"]
    worker.guard.apply(OverloadSpec(None, None), 8.0)
    assert not worker.guard.shedding and not worker.guard.causes and not worker.capacity.full(lambda: None)


def test_pauses_are_counted_and_told_at_most_once_a_second(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("charon.net.capacity.monotonic", lambda: now)
    worker.capacity.set_limit(1)
    worker.capacity.entered()
    for _ in range(20):  # at the limit: each connection that ends makes room for the next
        now += 0.1
        assert worker.capacity.full(lambda: None)
        worker.look(now)
        worker.capacity.left()
        worker.capacity.entered()
    worker.capacity.left()
    for _ in range(20):
        now += 0.1
        worker.look(now)
    assert worker.counted(Metric.ACCEPT_PAUSES) == {"connections": 20}
    assert worker.said() == [("accepting_paused", "connections"), ("accepting_resumed", None)]
