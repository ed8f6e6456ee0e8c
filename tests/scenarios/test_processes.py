"""Two kinds of process: workers that may die, a supervisor that may be told to stop, and nothing lost over either."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Program, ScriptedBackend, http_response
from tests.harness.charon import LogLine, descriptors, sample, total
from tests.harness.client import Broken, RawClient
from tests.harness.waiting import alive, eventually

REQUESTS = "charon_http_requests_total"


def http(address: str, **settings: Any) -> dict[str, Any]:
    return {"listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_addr": address}], **settings}


def get(port: int, path: str = "/") -> int:
    """The status of one request on a connection of its own."""
    with RawClient(port) as client:
        return client.get(path, "Connection: close").status


def when(line: LogLine) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


class Held:
    """A backend's script: it says when a request has arrived, and answers when it is let."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.answer = threading.Event()

    def __call__(self, connection: Connection) -> None:
        connection.read_request()
        self.arrived.set()
        self.answer.wait(10)
        connection.send(http_response(200, b"finished"))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for a while, like one that is very busy."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_nobody_notices(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address), workers=2)
    port = charon.port()
    assert all(get(port) == 200 for _ in range(30))
    before = total(charon.metrics(), REQUESTS)
    assert before == 30
    first, other = charon.worker_pids()
    os.kill(first, signal.SIGKILL)
    assert all(get(port) == 200 for _ in range(30)), "what came for the dead one waits for the next"
    died = charon.wait_for_event("worker_died", pid=first)
    assert (died["level"], died["how"], died["worker"]) == ("error", "signal 9", 0)
    eventually(lambda: charon.worker_pids()[0] != first)
    replacement, same = charon.worker_pids()
    assert same == other
    assert alive(replacement) and alive(other) and not alive(first)
    metrics = charon.metrics()
    assert total(metrics, REQUESTS) == before + 30, "counters never fall, and forget nothing"
    assert sample(metrics, "charon_worker_restarts_total") == 1
    assert sample(metrics, "charon_workers") == 2


def test_a_connection_in_another_worker_outlives_the_death(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address), workers=2)
    clients = [RawClient(charon.port()) for _ in range(16)]
    assert all(client.get().status == 200 for client in clients)
    os.kill(charon.worker_pids()[1], signal.SIGKILL)
    charon.wait_for_event("worker_died")
    served = 0
    for client in clients:
        try:
            served += client.get().status == 200
        except (Broken, ConnectionError):
            pass  # it was the dead one's
        client.close()
    assert 0 < served < 16


def test_a_worker_that_keeps_dying_is_replaced_more_and_more_slowly(
    start_charon: StartCharon, http_backend: Program
) -> None:
    charon = start_charon(http(http_backend.address))
    for count in range(1, 4):
        pid = eventually(lambda: [pid for pid in charon.worker_pids() if alive(pid)])[0]
        os.kill(pid, signal.SIGKILL)
        charon.wait_for_events("worker_died", count)
        charon.wait_for_events("worker_started", count + 1)
    deaths = charon.log_lines("worker_died")
    starts = charon.log_lines("worker_started")[1:]
    second, third = (when(start) - when(death) for death, start in zip(deaths[1:], starts[1:], strict=True))
    assert second >= 0.4
    assert third >= 0.8
    assert get(charon.port()) == 200
    assert charon.stop() == 0


def test_a_charon_in_a_crash_loop_still_stops_at_once(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address))
    for count in range(1, 4):
        os.kill(charon.worker_pids()[0], signal.SIGKILL)
        charon.wait_for_events("worker_died", count)
        if count < 3:
            charon.wait_for_events("worker_started", count + 1)
    begun = monotonic()
    assert charon.stop() == 0
    assert monotonic() - begun < 3.0


def test_workers_end_by_themselves_when_the_supervisor_is_killed(
    start_charon: StartCharon, http_backend: Program
) -> None:
    charon = start_charon(http(http_backend.address), workers=2)
    workers = charon.worker_pids()
    with RawClient(charon.port()) as client:
        assert client.get().status == 200
        charon.signal(signal.SIGKILL)
        assert client.ended(), "an idle connection is closed in the orderly way"
    assert charon.wait() == -9
    eventually(lambda: not any(alive(pid) for pid in workers))
    assert len(charon.log_lines("worker_drained")) == 2


def test_totals_are_exact_over_four_workers(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address), workers=4)
    port = charon.port()
    clients = [RawClient(port) for _ in range(40)]
    for _ in range(5):
        for client in clients:
            client.request("GET /")
        assert all(client.read_response().status == 200 for client in clients)
    metrics = charon.metrics()
    labels = {"method": "GET", "status": "200", "upstream": http_backend.address}
    assert sample(metrics, REQUESTS, **labels) == 200
    assert total(metrics, "charon_http_request_latency_seconds_count") == 200
    assert sample(metrics, "charon_listener_accepted_connections_total", listener="web") == 40
    assert sample(metrics, "charon_listener_connections", listener="web") == 40
    for client in clients:
        client.close()
    charon.wait_for_events("http_request", 200)
    eventually(lambda: sample(charon.metrics(), "charon_listener_connections", listener="web") == 0)


def test_a_busy_worker_delays_the_supervisor_hardly_at_all(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address), workers=2)
    port = charon.port()
    assert all(get(port) == 200 for _ in range(20))
    assert total(charon.metrics(), REQUESTS) == 20
    with stopped(charon.worker_pids()[0]):
        begun = monotonic()
        assert charon.admin("/livez") == (200, b"ok\n")
        assert charon.admin("/readyz") == (200, b"ok\n")
        assert monotonic() - begun < 0.5
        begun = monotonic()
        assert total(charon.metrics(), REQUESTS) == 20, "the last known numbers stand in for the missing ones"
        assert monotonic() - begun < 2.0
    assert get(port) == 200
    eventually(lambda: total(charon.metrics(), REQUESTS) == 21)


def test_a_thousand_connections_leave_nothing_behind(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address))
    (worker,) = charon.worker_pids()
    port = charon.port()

    def use(count: int) -> None:
        for number in range(count):
            with RawClient(port) as client:
                if number % 3 == 0:
                    assert client.get().status == 200
                elif number % 3 == 1:
                    client.send("GET / HTTP/1.1\r\nHo")  # and leaves in the middle
                # The rest leave without a word.

    def open_connections() -> float:
        return sample(charon.metrics(), "charon_listener_connections", listener="web")

    use(30)
    eventually(lambda: open_connections() == 0)
    before = len(descriptors(worker))
    use(1000)
    eventually(lambda: open_connections() == 0)
    assert len(descriptors(worker)) == before
    assert sample(charon.metrics(), "charon_listener_accepted_connections_total", listener="web") == 1030


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_finish(
    start_charon: StartCharon, backend: ScriptedBackend, number: signal.Signals
) -> None:
    held = backend.script = Held()
    charon = start_charon(http(backend.address), workers=2)
    port = charon.port()
    with RawClient(port) as idle, RawClient(port) as busy:
        backend.script = Held()
        backend.script.answer.set()
        assert idle.get().status == 200
        held = backend.script = Held()
        busy.request("GET /slow")
        assert held.arrived.wait(10)
        charon.signal(number)
        charon.wait_for_event("shutting_down", drain_timeout=2.0)
        assert idle.ended()
        eventually(lambda: not accepts(port))
        assert charon.admin("/readyz")[0] == 503
        assert charon.admin("/livez")[0] == 200
        held.answer.set()
        response = busy.read_response()
        assert (response.status, response.body) == (200, b"finished")
        assert (response.get("Connection") or "").lower() == "close"
        assert busy.ended()
    assert charon.wait() == 0
    assert [line["aborted"] for line in charon.log_lines("worker_drained")] == [0, 0]
    assert charon.log_lines()[-1]["message"] == "stopped"
    assert charon.stderr() == ""
    assert not charon.admin_socket.exists()


def accepts(port: int) -> bool:
    try:
        RawClient(port).close()
    except ConnectionRefusedError:
        return False
    return True


def test_what_does_not_finish_in_time_is_cut(start_charon: StartCharon, backend: ScriptedBackend) -> None:
    held = backend.script = Held()
    charon = start_charon(http(backend.address, drain_timeout="300ms"))
    with RawClient(charon.port()) as client:
        client.request("GET /never")
        assert held.arrived.wait(10)
        assert charon.stop() == 0
        response = client.read_response()
        assert (response.status, response.error) == (503, "draining")
        assert client.ended()
    held.answer.set()
    assert charon.log_lines("worker_drained")[0]["aborted"] == 1
    (line,) = charon.log_lines("http_request")
    assert line["reason"] == "draining"


def test_a_relayed_connection_may_finish_and_is_cut_when_it_does_not(
    start_charon: StartCharon, echo_server: Program
) -> None:
    charon = start_charon(http(echo_server.address, protocol="tcp", drain_timeout="1s"))
    with RawClient(charon.port()) as quick, RawClient(charon.port()) as endless:
        for client in (quick, endless):
            client.send(b"before")
            assert client.recv_exactly(6) == b"before"
        charon.signal(signal.SIGTERM)
        charon.wait_for_event("shutting_down")
        quick.send(b"after")
        assert quick.recv_exactly(5) == b"after"
        quick.half_close()
        assert quick.ended()
        with pytest.raises(ConnectionResetError):
            endless.recv()
    assert charon.wait() == 0
    assert sorted(line.get("reason", "") for line in charon.log_lines("tcp_connection")) == ["", "draining"]
    assert charon.log_lines("worker_drained")[0]["aborted"] == 1


def test_a_second_signal_stops_at_once(start_charon: StartCharon, backend: ScriptedBackend) -> None:
    held = backend.script = Held()
    charon = start_charon(http(backend.address, drain_timeout="60s"))
    workers = charon.worker_pids()
    with RawClient(charon.port()) as client:
        client.request("GET /never")
        assert held.arrived.wait(10)
        charon.signal(signal.SIGTERM)
        charon.wait_for_event("shutting_down")
        charon.signal(signal.SIGTERM)
        assert charon.wait() == 0
    held.answer.set()
    assert not any(alive(pid) for pid in workers)
    assert not charon.admin_socket.exists()


def test_a_hang_up_does_not_end_it(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address))
    charon.signal(signal.SIGHUP)
    charon.wait_for_log(lambda lines: any("reload" in line["message"] for line in lines))
    assert get(charon.port()) == 200
    assert charon.stop() == 0


def test_a_log_that_is_moved_away_loses_no_line_with_sigusr1_or_without(
    make_charon: StartCharon, http_backend: Program, tmp_path: Path
) -> None:
    log, first, moved = (tmp_path / name for name in ("charon.log", "charon.log.2", "charon.log.1"))
    charon = make_charon(http(http_backend.address, logging={"file": str(log)}), workers=2)
    charon.start(wait=False)
    port = charon.port_when_ready()
    stop = threading.Event()
    counts = [0, 0]

    def load(slot: int) -> None:
        with RawClient(port) as client:
            while not stop.is_set():
                assert client.get(f"/{slot}/{counts[slot]}").status == 200
                counts[slot] += 1

    threads = [threading.Thread(target=load, args=(slot,), daemon=True) for slot in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: min(counts) > 50)
    log.rename(first)
    eventually(log.exists)  # somebody has noticed, within a second
    log.rename(moved)
    charon.signal(signal.SIGUSR1)
    eventually(lambda: log.exists() and "log_reopened" in log.read_text())
    reopened = list(counts)
    eventually(lambda: all(now > then + 50 for now, then in zip(counts, reopened, strict=True)))
    stop.set()
    for thread in threads:
        thread.join()
    assert charon.stop() == 0
    lines = [json.loads(line) for path in (first, moved, log) for line in path.read_text().splitlines()]
    paths = [line["path"] for line in lines if line["message"] == "http_request"]
    assert sorted(paths) == sorted(f"/{slot}/{number}" for slot in range(2) for number in range(counts[slot]))
    after = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert "http_request" in after and after[-1] == "stopped"
    assert charon.raw_log() == []
