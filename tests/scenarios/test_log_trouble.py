"""The log cannot be written: traffic goes on as if nothing were the matter, and the trouble shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import StartCharon
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually

DROPPED, ERRORS = "charon_log_lines_dropped_total", "charon_log_write_errors_total"
ENOUGH = 4500
"""Requests whose access lines, of a kilobyte each, are more than may wait (4 MiB)."""


def web(**settings: Any) -> dict[str, Any]:
    """A listener that answers by itself: what is tried here is the log."""
    route = {"path_prefix": "/", "redirect": {"path": "/elsewhere"}}
    return {"listeners": [{"name": "web", "address": "127.0.0.1:0", "routes": [route]}], **settings}


def status(charon: CharonProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(charon.admin("/api/status")[1])
    return found


def use(port: int, count: int) -> None:
    """So many requests, all of which must be answered."""
    request = f"GET /{'x' * 990} HTTP/1.1\r\nHost: a\r\n\r\n"
    with RawClient(port) as client:
        for start in range(0, count, 50):
            some = min(50, count - start)
            client.send(request * some)
            assert all(client.read_response().status == 302 for _ in range(some))


def test_a_full_disk(make_charon: StartCharon) -> None:
    charon = make_charon(web(logging={"file": "/dev/full"}))
    charon.start(wait=False)
    port = charon.port_when_ready()
    use(port, ENOUGH)
    metrics = charon.metrics()
    assert sample(metrics, "charon_http_requests_total", method="GET", status="302", upstream="none") == ENOUGH
    assert sample(metrics, DROPPED) > 0 and sample(metrics, ERRORS) > 0
    log = status(charon)["log"]
    assert (log["file"], log["level"]) == ("/dev/full", "info")
    assert log["lines_dropped"] >= sample(metrics, DROPPED) and log["write_errors"] >= sample(metrics, ERRORS)
    command = [sys.executable, "-m", "charon", "status", "--config", str(charon.config_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("log /dev/full: ")]
    assert line.endswith(" lines dropped") and " failures to write, " in line
    assert charon.stderr().count("cannot write the log /dev/full") == 2, "once for each process"
    assert charon.stop() == 0


def test_standard_output_that_is_stuck_then_closed_then_read_again(make_charon: StartCharon, tmp_path: Path) -> None:
    fifo = tmp_path / "stdout"
    os.mkfifo(fifo)
    stuck = os.open(fifo, os.O_RDWR)  # nobody reads what is in it
    charon = make_charon(web(), prefix=["sh", "-c", 'exec "$@" >"$0"', str(fifo)])
    charon.start(wait=False)
    port = charon.port_when_ready()
    use(port, ENOUGH)
    metrics = charon.metrics()
    assert sample(metrics, DROPPED) > 0 and sample(metrics, ERRORS) == 0, "a full pipe is no error"
    os.close(stuck)
    eventually(lambda: use(port, 1) or sample(charon.metrics(), ERRORS))
    with open(os.open(fifo, os.O_RDONLY), "rb") as reader:
        line = json.loads(reader.readline())
        assert line["timestamp"] and line["level"], "a whole line, and the log goes on by itself"
        use(port, 10)
        os.kill(charon.pid or 0, signal.SIGTERM)
        lines = [json.loads(line) for line in reader]
    assert [line["message"] for line in lines][-1] == "stopped"
    assert charon.wait() == 0
