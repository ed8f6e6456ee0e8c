"""A worker that has more to do than it can: what it turns away, how it says so, and that it comes back."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Program, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, sample, total
from tests.harness.client import Broken, RawClient
from tests.harness.waiting import eventually

ALWAYS_LATE = "1us"
"""Of this nobody is capable, so that a worker is overloaded for as long as it is asked of it."""

SHED = "charon_overload_shed_total"


def config(backend: ScriptedBackend, echo: Program, **overload: Any) -> dict[str, Any]:
    return {
        "listeners": [
            {"name": "web", "address": "127.0.0.1:0", "target_service_name": "app"},
            {"name": "raw", "address": "127.0.0.1:0", "target_service_name": "echo", "protocol": "tcp"},
        ],
        "services": {"app": {"addresses": [backend.address]}, "echo": {"addresses": [echo.address]}},
        "overload": overload,
    }


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend, echo_server: Program) -> CharonProcess:
    return start_shared_charon(config(shared_backend, echo_server))


def change(charon: CharonProcess, backend: ScriptedBackend, echo: Program, **overload: Any) -> int:
    """Put other settings in force. Returns the place in the log before that."""
    mark = charon.mark()
    charon.write_config(config(backend, echo, **overload))
    charon.signal(signal.SIGHUP)
    charon.wait_for_event("config_reloaded", since=mark)
    return mark


def carried(charon: CharonProcess) -> bool:
    """Whether a new TCP connection is carried."""
    try:
        with RawClient(charon.port("raw")) as client:
            client.send(b"hello")
            return client.recv_exactly(5) == b"hello"
    except (Broken, ConnectionError):
        return False


def test_a_worker_that_is_late_turns_new_work_away_until_it_keeps_up(
    charon: CharonProcess, backend: ScriptedBackend, echo_server: Program
) -> None:
    backend.serve(http_response(200, b"fine"))
    with RawClient(charon.port("web")) as client:
        assert client.get().status == 200
        mark = change(charon, backend, echo_server, max_loop_lag=ALWAYS_LATE)
        charon.wait_for_event("overload_started", since=mark, cause="loop_lag")
        answer = eventually(lambda: found if (found := client.get("/shed")).status != 200 else None)
        assert (answer.status, answer.error, answer.get("Retry-After")) == (503, "overloaded", "1")
        assert answer.get("Connection") is None, "the connection goes on"
        eventually(lambda: client.get("/passes").status == 200)  # some always do
        line = charon.wait_for_event("http_request", since=mark, path="/shed", status=503)
        assert (line["reason"], line["upstream"]) == ("overloaded", "none")
        eventually(lambda: not carried(charon))
        charon.wait_for_event("tcp_connection", since=mark, reason="overloaded")
        assert all(client.get("/metrics").status == 200 for _ in range(30)), "what shows the trouble is not turned away"
        metrics = charon.metrics()
        assert sample(metrics, SHED, cause="loop_lag") >= 2
        assert sample(metrics, "charon_overload_workers", cause="loop_lag") == 1
        assert sample(metrics, "charon_overload_started_total", cause="loop_lag") >= 1
        mark = change(charon, backend, echo_server)
        ended = charon.wait_for_event("overload_ended", since=mark, cause="loop_lag")
        assert ended["seconds"] > 0
        assert all(client.get().status == 200 for _ in range(30)) and carried(charon)
    assert sample(charon.metrics(), "charon_overload_workers", cause="loop_lag") == 0


def test_a_request_with_a_body_is_turned_away_with_its_connection(
    charon: CharonProcess, backend: ScriptedBackend, echo_server: Program
) -> None:
    backend.serve(http_response(200, b"fine"))
    mark = change(charon, backend, echo_server, max_loop_lag=ALWAYS_LATE)
    charon.wait_for_event("overload_started", since=mark)

    def refused() -> bool:
        with RawClient(charon.port("web")) as client:
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + "x" * 1000)
            client.sock.settimeout(0.2)
            try:
                response = client.read_response()
            except TimeoutError:
                return False  # this one is let through, and waits for its body
            assert (response.status, response.error) == (503, "overloaded")
            return response.get("Connection") == "close" and client.ended()

    assert eventually(refused)
    mark = change(charon, backend, echo_server, max_loop_lag="none")
    charon.wait_for_event("overload_ended", since=mark)


def test_too_much_memory_closes_what_is_idle_then_takes_nothing(
    charon: CharonProcess, backend: ScriptedBackend, echo_server: Program
) -> None:
    backend.serve(http_response(200, b"fine"))
    with RawClient(charon.port("web")) as idle:
        assert idle.get().status == 200
        eventually(lambda: total(charon.metrics(), "charon_upstream_pool_idle_connections") == 1)
        mark = change(charon, backend, echo_server, max_memory="16MiB")
        started = charon.wait_for_event("overload_started", since=mark, cause="memory")
        assert started["resident_bytes"] > 16 << 20
        assert idle.ended()
        eventually(lambda: total(charon.metrics(), "charon_upstream_pool_idle_connections") == 0)
    with ExitStack() as stack:

        def unanswered() -> RawClient | None:
            client = stack.enter_context(RawClient(charon.port("web")))
            client.request("GET /later", "Connection: close")
            client.sock.settimeout(0.3)
            try:
                client.recv()
                return None  # it was accepted still
            except TimeoutError:
                client.sock.settimeout(PATIENCE)
                return client

        waiting = eventually(unanswered)
        charon.wait_for_event("accepting_paused", since=mark, cause="memory")
        change(charon, backend, echo_server, max_memory="none")
        charon.wait_for_event("overload_ended", since=mark, cause="memory")
        assert waiting.read_response().status == 200
    charon.wait_for_event("accepting_resumed", since=mark)
