"""A service whose latency says how much it is given: the limit, what is over it, and who does not count."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually
from tests.scenarios.services import Gate, ask, serving

LIMIT = "charon_service_concurrency_limit"
FEW = 2

NEVER_FAST_ENOUGH = {"enabled": True, "min_limit": FEW, "target_latency": "1us"}
"""With this every window of answers halves the limit, down to the lowest."""


def config(backend: ScriptedBackend, adaptive: dict[str, Any]) -> dict[str, Any]:
    block = {"addresses": [backend.address], "retry": {"attempts": 0}, "limits": {"adaptive_concurrency": adaptive}}
    return serving({"app": block})


@pytest.fixture
def charon(start_charon: StartCharon, backend: ScriptedBackend) -> CharonProcess:
    """Two workers that have found out that two requests at the same time are enough."""
    charon = start_charon(config(backend, NEVER_FAST_ENOUGH), workers=2)
    backend.serve(http_response(200, b"fine"))

    def found_out() -> bool:
        for _ in range(40):
            assert ask(charon, "/app").status == 200
        return sample(charon.metrics(), LIMIT, service="app") == FEW

    eventually(found_out)
    backend.forget()
    return charon


def test_what_is_over_the_limit_is_turned_away_at_once(charon: CharonProcess, backend: ScriptedBackend) -> None:
    gate = backend.script = Gate()
    with ExitStack() as stack:

        def begin(path: str) -> RawClient:
            client = stack.enter_context(RawClient(charon.port("web")))
            client.request(f"GET {path}")
            return client

        carried = [begin("/app") for _ in range(FEW)]
        gate.wait_for(FEW)
        for _ in range(6):  # in either worker
            refused = begin("/app/more")
            answer = refused.read_response()
            assert (answer.status, answer.error, answer.get("Retry-After")) == (503, "overloaded", "1")
            assert answer.get("Connection") is None
        assert sample(charon.metrics(), "charon_service_shed_total", service="app") == 6
        gate.open.set()
        assert [client.read_response().status for client in carried] == [200] * FEW
        assert refused.get("/app").status == 200, "its connection goes on, and there is room again"
    lines = charon.wait_for_events("http_request", 6, path="/app/more")
    assert {(line["reason"], line["upstream"]) for line in lines} == {("overloaded", "none")}


def test_what_has_its_answer_does_not_count_any_more(charon: CharonProcess, backend: ScriptedBackend) -> None:
    """However long it takes to pass on, or to fail: a place is given back with the head of the answer."""

    def script(connection: Connection) -> None:
        target = connection.read_request().target
        if target == "/app/resets":
            connection.reset()
        elif target == "/app/upgrade":
            connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
        elif target == "/app/stream":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            connection.send(http_response(200, b"fine", "Connection: close"))
        if target in ("/app/upgrade", "/app/stream"):
            connection.wait_for_end()

    backend.script = script
    with ExitStack() as stack:
        for number in range(FEW * 2):
            path = "/app/upgrade" if number % 2 else "/app/stream"
            client = stack.enter_context(RawClient(charon.port("web")))
            client.request(f"GET {path}", "Connection: Upgrade", "Upgrade: chat")
            assert client.read_head().status == (101 if number % 2 else 200)
        for _ in range(FEW * 2):
            assert ask(charon, "/app/resets").error == "upstream_reset"
        assert ask(charon, "/app").status == 200


def test_it_can_be_switched_off_while_it_holds_back(charon: CharonProcess, backend: ScriptedBackend) -> None:
    gate = backend.script = Gate()
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(charon.port("web"))) for _ in range(FEW + 3)]
        for client in clients[:FEW]:
            client.request("GET /app")
        gate.wait_for(FEW)
        charon.write_config(config(backend, {"enabled": False}))
        charon.signal(signal.SIGHUP)
        charon.wait_for_event("config_reloaded")
        for client in clients[FEW:]:
            client.request("GET /app")
        gate.wait_for(3)
        gate.open.set()
        assert [client.read_response().status for client in clients] == [200] * len(clients)
    assert (LIMIT, frozenset({("service", "app")})) not in charon.metrics()
