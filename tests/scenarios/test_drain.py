"""How long connections end when Charon stops or their listener leaves: one after the other, late, and nothing else."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Closed, Connection, Program, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, LogLine, sample
from tests.harness.client import Broken, RawClient
from tests.harness.waiting import eventually

COUNT = 12
DRAIN = 3.0


def when(line: LogLine) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def relays(charon: CharonProcess, stack: ExitStack, listener: str, count: int = COUNT) -> list[RawClient]:
    clients = [stack.enter_context(RawClient(charon.port(listener))) for _ in range(count)]
    for client in clients:
        client.send(b"hello")
        assert client.recv_exactly(5) == b"hello"
    return clients


def ended_one_after_the_other(lines: list[LogLine], began: float) -> None:
    moments = sorted(when(line) - began for line in lines)
    assert moments[0] >= DRAIN * 2 / 3 - 0.1, "nothing is cut before the last third"
    assert moments[-1] - moments[0] >= DRAIN / 6, "not all at once"
    assert len({round(moment, 1) for moment in moments}) >= 3


def test_a_stop_ends_relayed_connections_one_after_the_other(start_charon: StartCharon, echo_server: Program) -> None:
    listener = {"name": "echo", "address": "127.0.0.1:0", "protocol": "tcp", "target_service_addr": echo_server.address}
    charon = start_charon({"listeners": [listener], "drain_timeout": f"{DRAIN}s"})
    with ExitStack() as stack:
        *endless, quick = relays(charon, stack, "echo", COUNT + 1)
        charon.signal(signal.SIGTERM)
        began = when(charon.wait_for_event("shutting_down"))
        quick.half_close()
        assert quick.ended()
        lines = charon.wait_for_events("tcp_connection", COUNT, reason="draining")
        ended_one_after_the_other(lines, began)
        for client in endless:
            with pytest.raises(ConnectionResetError):
                client.recv()
    assert charon.wait() == 0
    assert len(charon.log_lines("tcp_connection")) == COUNT + 1


def test_a_listener_that_leaves_ends_its_own_one_after_the_other(
    start_charon: StartCharon, echo_server: Program
) -> None:
    def config(*names: str) -> dict[str, Any]:
        listeners = [{"name": name, "address": "127.0.0.1:0", "target_service_name": "echo"} for name in names]
        return {"protocol": "tcp", "listeners": listeners, "drain_timeout": f"{DRAIN}s"}

    charon = start_charon(config("stays", "leaves"), {"echo": echo_server.address})
    with ExitStack() as stack:
        relays(charon, stack, "leaves")
        (other,) = relays(charon, stack, "stays", 1)
        assert sample(charon.metrics(), "charon_connections_draining") == 0
        charon.write_config(config("stays"))
        charon.signal(signal.SIGHUP)
        began = when(charon.wait_for_event("config_reloaded"))
        assert sample(charon.metrics(), "charon_connections_draining") == COUNT
        lines = charon.wait_for_events("tcp_connection", COUNT, listener="leaves", reason="draining")
        ended_one_after_the_other(lines, began)
        eventually(lambda: sample(charon.metrics(), "charon_connections_draining") == 0)
        other.send(b"still here")
        assert other.recv_exactly(10) == b"still here"


class App:
    """By path: ``/events`` never ends, nor does the WebSocket ``/chat``; ``/late`` and ``/rest`` end when they may."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.arrived = threading.Semaphore(0)

    def __call__(self, connection: Connection) -> None:
        path = connection.read_request().target
        self.arrived.release()
        if path == "/chat":
            upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            connection.send(upgrade + b"\x81\x02hi")
        elif path == "/events":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.send_chunk(b"first")
        elif path == "/rest":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegin")
        if path in ("/chat", "/events"):
            try:
                while connection.recv():
                    pass
            except (Closed, ConnectionError):
                return
            return
        assert self.finish.wait(PATIENCE)
        connection.send(b"ended" if path == "/rest" else http_response(200, b"in time"))


def test_a_stop_cuts_what_is_endless_and_lets_the_rest_finish(
    start_charon: StartCharon, backend: ScriptedBackend
) -> None:
    app = backend.script = App()
    listener = {"name": "web", "address": "127.0.0.1:0", "target_service_addr": backend.address}
    charon = start_charon({"listeners": [listener], "drain_timeout": f"{DRAIN}s"})
    with ExitStack() as stack:

        def begin(path: str, *headers: str) -> RawClient:
            client = stack.enter_context(RawClient(charon.port()))
            client.request(f"GET {path}", *headers)
            assert app.arrived.acquire(timeout=PATIENCE)
            return client

        late, rest = begin("/late"), begin("/rest")
        chats = [begin("/chat", "Connection: Upgrade", "Upgrade: websocket") for _ in range(4)]
        streams = [begin("/events") for _ in range(4)]
        for chat in chats:
            assert chat.read_head().status == 101 and chat.recv_exactly(4) == b"\x81\x02hi"
        for stream in streams:
            assert stream.read_head().status == 200 and stream.read_chunk() == b"first"
        assert rest.recv_until(b"begin")
        charon.signal(signal.SIGTERM)
        began = when(charon.wait_for_event("shutting_down"))
        first = charon.wait_for_event("http_request", reason="draining")
        assert when(first) - began >= DRAIN * 2 / 3 - 0.1
        app.finish.set()  # in the last third: neither is cut while there is time
        assert rest.recv_exactly(5) == b"ended"
        answer = late.read_response()
        assert (answer.status, answer.body, answer.get("Connection")) == (200, b"in time", "close")
        for chat in chats:
            assert chat.ended(), "in the orderly way: its protocol knows that it was cut"
        for stream in streams:
            with pytest.raises(Broken):
                stream.read_chunk()
    assert charon.wait() == 0
    lines = charon.log_lines("http_request")
    assert {(line["path"], line.get("reason")) for line in lines} == {
        ("/late", None), ("/rest", None), ("/chat", "draining"), ("/events", "draining"),
    }  # fmt: skip
    assert len(lines) == 10
    assert charon.stderr() == ""
