"""The ledger: counters that outlive the process that counts, in memory that is never believed unread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from math import inf, nan

import orjson
import pytest

from charon.base.names import Metric
from charon.telemetry.families import FAMILIES, OVERFLOW
from charon.telemetry.ledger import MAX_NAME, NOWHERE, SLOT_BYTES, SLOTS, VALUE_WORDS, Ledger, LedgerReader, values_of
from charon.telemetry.metrics import MAX_SERIES
from tests.telemetry.conftest import Counting

RETRIES = FAMILIES[Metric.HTTP_RETRIES]
LATENCY = FAMILIES[Metric.HTTP_LATENCY]

WORKER = """
import signal, sys
from charon.telemetry.ledger import Ledger
from charon.telemetry.metrics import WorkerMetrics
metrics = WorkerMetrics(Ledger(int(sys.argv[1])))
for _ in range(1000):
    metrics.http_request("GET", 200, "a:80", 0.25)
print("counted", flush=True)
signal.pause()
"""


def test_what_a_killed_process_has_counted_is_there() -> None:
    ledger = Ledger.create()
    reader = LedgerReader(ledger)
    command = [sys.executable, "-c", WORKER, str(ledger.fd)]
    with subprocess.Popen(command, pass_fds=[ledger.fd], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"counted\n"
        os.kill(process.pid, signal.SIGKILL)
    last = reader.take()
    assert last["counters"] == {Metric.HTTP_REQUESTS: [[["GET", "200", "a:80"], 1000.0]]}
    ((labels, counts, total),) = last["histograms"][Metric.HTTP_LATENCY]
    assert (labels, sum(counts), total) == (["GET", "a:80"], 1000, 250.0)
    assert reader.take() == {"counters": {}, "histograms": {}}, "what was read is not read again"
    reader.close()


def test_a_new_series_is_told_before_it_counts_anything() -> None:
    ledger = Ledger.create()
    ledger.open(RETRIES, ("GET",))
    assert LedgerReader(ledger).take()["counters"] == {Metric.HTTP_RETRIES: [[["GET"], 0.0]]}


def test_a_slot_comes_back_once_its_last_values_were_read() -> None:
    ledger = Ledger.create(slots=len(FAMILIES) + 3)
    reader = LedgerReader(ledger)
    first, second = ledger.open(RETRIES, ("a",)), ledger.open(RETRIES, ("b",))
    assert first is not None and second is not None
    assert ledger.open(RETRIES, ("c",)) is None, "it is full"
    ledger.words[first] += 5
    ledger.retire(first)
    assert ledger.open(RETRIES, ("c",)) is None, "nobody has read it yet"
    assert reader.take()["counters"][Metric.HTTP_RETRIES] == [[["a"], 5.0], [["b"], 0.0]]
    assert ledger.open(LATENCY, ("GET", "c")) == first
    assert ledger.words[first] == 0
    assert reader.take() == {
        "counters": {},
        "histograms": {Metric.HTTP_LATENCY: [[["GET", "c"], [0] * (len(LATENCY.buckets) + 1), 0.0]]},
    }


def test_a_series_without_room_shares_the_one_of_its_family() -> None:
    metrics = Counting(slots=len(FAMILIES) + 2)
    for method in ("GET", "PUT", "POST"):
        metrics.retry(method)
    metrics.count(Metric.HTTP_RATE_LIMITED, ("é" * MAX_NAME,))
    assert metrics.delta()["counters"] == {
        Metric.HTTP_RETRIES: [[[OVERFLOW], 2.0], [["GET"], 1.0]],
        Metric.HTTP_RATE_LIMITED: [[[OVERFLOW], 1.0]],
    }


def test_every_family_has_room_for_all_its_series() -> None:
    counted = [family for family in FAMILIES.values() if family.kind != "gauge"]
    assert len(FAMILIES) + len(counted) * MAX_SERIES < SLOTS
    assert all(NOWHERE + values_of(family) < SLOT_BYTES // 8 - MAX_NAME // 8 + 1 for family in counted)


@pytest.mark.parametrize("word", [0, 1, 2, 3], ids=["top", "state", "length", "value"])
@pytest.mark.parametrize("value", [nan, inf, -1.0, 1e300])
def test_a_worker_that_writes_nonsense_is_found_out(word: int, value: float) -> None:
    ledger = Ledger.create()
    at = ledger.open(RETRIES, ("GET",))
    assert at is not None
    place = {0: 0, 1: at - 2, 2: at - 1, 3: at}[word]
    ledger.words[place] = value
    reader = LedgerReader(ledger)
    if word == 1 or (word == 3 and value == 1e300):
        assert reader.take()["counters"][Metric.HTTP_RETRIES][0][0] == ["GET"], "nothing to be seen"
    else:
        with pytest.raises(ValueError):
            reader.take()


@pytest.mark.parametrize("name", [b"{", b"{}", b"[]", b"[1]", b"[[]]", b'["x"]', b'["charon_workers"]', b"\xff"])
def test_a_name_that_is_none_is_found_out(name: bytes) -> None:
    ledger = Ledger.create()
    at = ledger.open(RETRIES, ("GET",))
    assert at is not None
    begin, length = (at + VALUE_WORDS) * 8, len(orjson.dumps([RETRIES.name, "GET"]))
    assert orjson.loads(ledger._memory[begin : begin + length]) == [RETRIES.name, "GET"]
    ledger._memory[begin : begin + length] = name.ljust(length)
    with pytest.raises(ValueError):
        LedgerReader(ledger).take()


def test_a_worker_cannot_cut_the_file_short() -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(Ledger.create().fd, 0)


def test_a_counter_that_falls_is_found_out() -> None:
    metrics = Counting()
    metrics.retry("GET")
    metrics.delta()
    metrics.count(Metric.HTTP_RETRIES, ("GET",), -1)
    with pytest.raises(ValueError):
        metrics.delta()


def test_series_are_bounded_and_memory_is_flat_whatever_comes_and_goes() -> None:
    metrics = Counting()
    tops = set()
    for round_ in range(3):
        for turn in range(20):
            names = [f"10.{round_}.{turn}.{number}:80" for number in range(50)]
            for name in names:
                upstream = metrics.upstream("users", name)
                upstream.connected(0.001)
                for number in range(10):
                    metrics.http_request(f"METHOD{turn * 50 + number}", 200 + number, name, 0.001)
            metrics.delta()
            metrics.retain([("users", name) for name in names], ["web"])
            assert len(metrics._series[Metric.HTTP_REQUESTS]) <= MAX_SERIES
            assert len(metrics.reader._known) < 2 * MAX_SERIES
        tops.add(metrics._ledger._top)
    assert len(tops) == 1, "slots are used again"
