"""Workers that are stuck, or die again and again: noticed, replaced, and their clients served meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient
from tests.harness.waiting import alive, eventually


def http(address: str, **settings: Any) -> dict[str, Any]:
    return {"listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_addr": address}], **settings}


def get(port: int) -> int:
    with RawClient(port) as client:
        return client.get("/", "Connection: close").status


def workers(charon: CharonProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(charon.admin("/api/status")[1])["workers"]
    return found


def test_a_worker_that_is_stuck_is_replaced(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(http(http_backend.address, worker_timeout="2s"), workers=2)
    stuck, other = charon.worker_pids()
    os.kill(stuck, signal.SIGSTOP)
    blocked = charon.wait_for_event("worker_blocked")
    assert (blocked["level"], blocked["worker"], blocked["pid"]) == ("error", 0, stuck)
    charon.wait_for_events("worker_started", 3)
    eventually(lambda: not alive(stuck))
    assert charon.worker_pids()[1] == other
    assert all(get(charon.port()) == 200 for _ in range(20))
    assert [one["deaths"] for one in workers(charon)] == [1, 0]


@pytest.mark.slow
def test_while_a_slot_waits_for_its_worker_another_one_serves_its_clients(
    start_charon: StartCharon, http_backend: Program
) -> None:
    charon = start_charon(http(http_backend.address), workers=2)
    port = charon.port()
    for deaths in range(1, 4):
        pid = charon.wait_for_events("worker_started", deaths + 1)[-1]["pid"]
        os.kill(pid if deaths > 1 else charon.worker_pids()[0], signal.SIGKILL)
        charon.wait_for_events("worker_died", deaths, worker=0)
    loop = charon.wait_for_events("worker_crash_loop", 2, worker=0)[1]
    assert (loop["deaths"], loop["next_start_in"]) == (3, 0.8)
    assert workers(charon)[0]["crash_loop"] is True
    assert all(get(port) == 200 for _ in range(30)), "half of them came to the socket of the slot without a worker"
    assert len(charon.log_lines("worker_started")) == 4, "answered before the slot had a worker again"
    charon.wait_for_events("worker_started", 5)
    eventually(lambda: not workers(charon)[0]["crash_loop"])
    assert all(get(port) == 200 for _ in range(30))


@pytest.mark.slow
def test_a_connection_that_came_while_its_slot_waited_stays_where_it_is(
    start_charon: StartCharon, echo_server: Program
) -> None:
    config = {"protocol": "tcp", "target_service_addr": echo_server.address, "drain_timeout": "500ms"}
    charon = start_charon({**config, "listeners": [{"name": "echo", "address": "127.0.0.1:0"}]}, workers=2)
    for deaths in range(1, 4):
        os.kill(charon.worker_pids()[0], signal.SIGKILL)
        charon.wait_for_events("worker_died", deaths, worker=0)
        if deaths < 3:
            charon.wait_for_events("worker_started", deaths + 2)
    with ExitStack() as stack:
        there = []
        for _ in range(30):  # half of them came to the socket of the slot without a worker
            there.append(stack.enter_context(socket.create_connection(("127.0.0.1", charon.port()), PATIENCE)))
            assert echoes(there[-1])
        charon.wait_for_events("worker_started", 5)

        def comes_to_the_new_one() -> bool:
            there.append(stack.enter_context(socket.create_connection(("127.0.0.1", charon.port()), PATIENCE)))
            return echoes(there[-1]) and bool(workers(charon)[0]["connections"])

        eventually(comes_to_the_new_one)
        assert [worker["draining"] for worker in workers(charon)] == [0, 0]
        assert all(map(echoes, there))


def echoes(connection: socket.socket) -> bool:
    connection.sendall(b"there?")
    return connection.recv(100) == b"there?"
