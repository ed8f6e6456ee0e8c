"""Bulkheads: how many requests an endpoint is given at the same time, exactly, by all workers together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Program, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient
from tests.harness.waiting import eventually
from tests.scenarios.services import Gate, ask, ask_at_once, serving, statuses, worker_of

AT_ONCE = 5


def room(most: int = AT_ONCE, **more: Any) -> dict[str, Any]:
    return {"max_requests_per_endpoint": most, "max_pending": 0, **more}


LIMITS = {
    "exact": room(),
    "crowd": room(pending_timeout="10s", max_pending=100),
    "waits": room(1, max_pending=10, pending_timeout="10s"),
    "gives-up": room(1, max_pending=10, pending_timeout="200ms"),
    "queue": room(1, max_pending=1, pending_timeout="10s"),
    "killed": room(2),
    "left": room(1),
    "failing": room(1),
}


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, ScriptedBackend]]:
    made = {name: ScriptedBackend() for name in (*LIMITS, "one", "other", "reloaded")}
    yield made
    for backend in made.values():
        backend.stop()
        backend.check()


@pytest.fixture(scope="module")
def charon(
    start_shared_charon: StartCharon, backends: dict[str, ScriptedBackend], echo_server: Program
) -> CharonProcess:
    services: dict[str, dict[str, Any]] = {
        name: {"addresses": [backends[name].address], "limits": limits, "retry": {"attempts": 0}}
        for name, limits in LIMITS.items()
    }
    services["two"] = {
        "addresses": [backends["one"].address, backends["other"].address],
        "limits": room(2),
        "retry": {"attempts": 0},
    }
    services["echo"] = {"addresses": [echo_server.address], "limits": room(2)}
    config = serving(services)
    relay = {"name": "relay", "address": "127.0.0.1:0", "protocol": "tcp", "target_service_name": "echo"}
    config["listeners"].append(relay)
    return start_shared_charon(config, workers=4)


class Counting:
    """Answers when it is let, and knows how many it ever had at the same time."""

    def __init__(self) -> None:
        self.most = 0
        self.now = 0
        self._lock = threading.Lock()

    def __call__(self, request: object) -> bytes:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.005)  # the work that it does for each
        with self._lock:
            self.now -= 1
        return http_response(200, b"done", "Connection: close")


def begin(charon: CharonProcess, stack: ExitStack, path: str) -> RawClient:
    """A client with a request under way."""
    client = stack.enter_context(RawClient(charon.port("web")))
    client.request(f"GET {path}", "Connection: close")
    return client


def test_exactly_as_many_as_there_is_room_for(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    gate = backends["exact"].script = Gate()
    with ThreadPoolExecutor(1) as pool:
        crowd = pool.submit(ask_at_once, charon, "/exact", 40)
        gate.wait_for(AT_ONCE)
        with ExitStack() as stack:
            refused = begin(charon, stack, "/exact").read_response()
        assert (refused.status, refused.error, refused.get("Retry-After")) == (503, "overloaded", "1")
        gate.open.set()
        answers = crowd.result()
    # Those that came when the first were through already may have passed as well.
    assert statuses(answers)[200] == len(gate.requests) >= AT_ONCE
    assert {answer.error for answer in answers} <= {None, "overloaded"}
    assert statuses(ask_at_once(charon, "/exact", AT_ONCE)) == {200: AT_ONCE}, "all room is given back"


def test_never_more_in_a_crowd_that_waits_its_turn(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    counting = Counting()
    backends["crowd"].serve(counting)
    assert statuses(ask_at_once(charon, "/crowd", 60)) == {200: 60}
    assert counting.most == AT_ONCE


def test_one_that_waits_is_served_when_there_is_room(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    gate = backends["waits"].script = Gate()
    with ExitStack() as stack:
        first = begin(charon, stack, "/waits")
        gate.wait_for(1)
        others = [begin(charon, stack, "/waits") for _ in range(4)]
        gate.open.set()
        assert [client.read_response().status for client in (first, *others)] == [200] * 5


def test_one_that_waits_too_long_is_told(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    gate = backends["gives-up"].script = Gate()
    mark = charon.mark()
    with ExitStack() as stack:
        first = begin(charon, stack, "/gives-up")
        gate.wait_for(1)
        late = begin(charon, stack, "/gives-up/late").read_response()
        assert (late.status, late.error, late.get("Retry-After")) == (503, "pending_timeout", "1")
        gate.open.set()
        assert first.read_response().status == 200
    line = charon.wait_for_event("http_request", since=mark, path="/gives-up/late")
    assert line["latency_ms"] >= 195
    assert (line["reason"], line["upstream"]) == ("pending_timeout", "none")


def test_the_queue_is_bounded_in_each_worker(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    gate = backends["queue"].script = Gate()
    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(ask, charon, "/queue") for _ in range(32)]
        # One is served, at most one waits in each of four workers; the rest is told at once.
        eventually(lambda: sum(answer.done() for answer in asked) >= 27)
        assert {answer.result().error for answer in asked if answer.done()} == {"overloaded"}
        gate.open.set()
        answers = [answer.result() for answer in asked]
    assert 1 <= statuses(answers)[200] == len(gate.requests) <= 5


def test_another_endpoint_is_taken_while_it_has_room(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    gates = [Gate(), Gate()]
    backends["one"].script, backends["other"].script = gates
    with ExitStack() as stack:
        clients = [begin(charon, stack, "/two") for _ in range(4)]
        for gate in gates:
            gate.wait_for(2)
        assert ask(charon, "/two").error == "overloaded"
        for gate in gates:
            gate.open.set()
        assert [client.read_response().status for client in clients] == [200] * 4


def test_what_ended_badly_gives_its_room_back(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    def reset(connection: Connection) -> None:
        connection.read_request()
        connection.reset()

    backends["failing"].script = reset
    assert [ask(charon, "/failing").error for _ in range(3)] == ["upstream_reset"] * 3
    gate = backends["left"].script = Gate()
    with ExitStack() as stack:
        client = begin(charon, stack, "/left")
        gate.wait_for(1)
        assert ask(charon, "/left").error == "overloaded"
        client.reset()
        gate.open.set()
        eventually(lambda: ask(charon, "/left").status == 200)


def test_tcp_connections_are_bounded_too(charon: CharonProcess) -> None:
    with ExitStack() as stack:

        def carried() -> RawClient | None:
            try:
                client = stack.enter_context(RawClient(charon.port("relay")))
                client.send(b"echo")
                return client if client.recv_exactly(4) == b"echo" else None
            except Exception:  # noqa: BLE001 - refused in one of several ways
                return None

        clients = [carried(), carried()]
        assert None not in clients
        mark = charon.mark()
        assert [carried() for _ in range(3)] == [None] * 3
        charon.wait_for_events("tcp_connection", 3, since=mark, listener="relay", reason="overloaded")
        assert clients[0] is not None
        clients[0].close()
        assert eventually(carried)


def test_a_limit_that_comes_and_goes_by_reload_counts_from_zero(
    start_charon: StartCharon, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["reloaded"]

    def config(*limits: int) -> dict[str, Any]:
        block: dict[str, Any] = {"addresses": [backend.address]}
        return serving({"reloaded": block | ({"limits": room(limits[0])} if limits else {})})

    charon = start_charon(config())

    def reload(*limits: int) -> None:
        mark = charon.mark()
        charon.write_config(config(*limits))
        charon.signal(signal.SIGHUP)
        charon.wait_for_event("config_reloaded", since=mark)

    def one_is_under_way_while(*limits: int) -> None:
        gate = backend.script = Gate()
        with ExitStack() as stack:
            client = begin(charon, stack, "/reloaded")
            gate.wait_for(1)
            reload(*limits)
            gate.open.set()
            assert client.read_response().status == 200

    def room_for_one_and_no_more() -> None:
        gate = backend.script = Gate()
        with ExitStack() as stack:
            client = begin(charon, stack, "/reloaded")
            gate.wait_for(1)
            assert ask(charon, "/reloaded").error == "overloaded"
            gate.open.set()
            assert client.read_response().status == 200

    one_is_under_way_while(1)
    room_for_one_and_no_more()
    one_is_under_way_while()
    reload(1)
    room_for_one_and_no_more()


def test_room_held_by_a_killed_worker_is_free_again(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["killed"]
    gate = backend.script = Gate()
    with ExitStack() as stack:
        for _ in range(2):
            begin(charon, stack, "/killed")
        gate.wait_for(2)
        assert ask(charon, "/killed").error == "overloaded"
        holders = {worker_of(connection.sock, charon.worker_pids()) for connection in backend.connections}
        backend.serve(http_response(200, b"fine", "Connection: close"))
        for pid in holders:
            os.kill(pid, signal.SIGKILL)
        for pid in holders:
            charon.wait_for_event("worker_died", pid=pid)
        eventually(lambda: statuses(ask_at_once(charon, "/killed", 2)) == {200: 2})
        gate.open.set()
