"""Clients that send or read so slowly that they might as well not: each is given its time, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient

PAUSE = 0.05


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    def listener(name: str, **timeouts: str) -> dict[str, object]:
        return {"name": name, "address": "127.0.0.1:0", "target_service_name": "app", "timeouts": timeouts}

    return start_shared_charon(
        {
            "listeners": [
                listener("header", client_header="300ms"),
                listener("idle", idle="300ms"),
                listener("body", client_body="300ms"),
            ]
        },
        {"app": shared_backend.address},
    )


def drip(client: RawClient, piece: str) -> bytes:
    """Send ``piece`` again and again until an answer or the end comes, and return that."""
    client.sock.settimeout(PAUSE)
    cutoff = monotonic() + PATIENCE
    while monotonic() < cutoff:
        try:
            return client.recv()
        except TimeoutError:
            client.send(piece)
    raise AssertionError("it may go on for ever")


@pytest.mark.parametrize("piece", ["x", "X-More: of it\r\n"], ids=["bytes", "lines"])
@pytest.mark.parametrize("served", [0, 1], ids=["first request", "later request"])
def test_a_head_that_drips_has_the_time_of_a_head(
    charon: CharonProcess, backend: ScriptedBackend, served: int, piece: str
) -> None:
    backend.serve(http_response(200))
    with RawClient(charon.port("header")) as client:
        for _ in range(served):
            assert client.get().status == 200
        client.send("GET / HTTP/1.1\r\n")
        assert drip(client, piece).startswith(b"HTTP/1.1 408 ")
    assert len(backend.requests) == served


@pytest.mark.parametrize(("listener", "served"), [("header", 0), ("idle", 1)], ids=["first request", "later request"])
def test_empty_lines_hold_no_connection_open(
    charon: CharonProcess, backend: ScriptedBackend, listener: str, served: int
) -> None:
    backend.serve(http_response(200))
    with RawClient(charon.port(listener)) as client:
        for _ in range(served):
            assert client.get().status == 200
        client.send("\r\n")
        assert drip(client, "\r\n") == b""


def test_a_body_that_stalls_has_a_time_of_its_own(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    mark = charon.mark()
    with RawClient(charon.port("body")) as client:
        client.send("POST /stalls HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npartial")
        response = client.read_response()
        assert (response.status, response.error) == (408, "client_too_slow")
        assert response.get("Connection") == "close" and client.ended()
    line = charon.wait_for_event("http_request", since=mark, path="/stalls")
    assert line["reason"] == "client_too_slow" and 295 <= line["latency_ms"] < 5000
    assert not backend.requests


def test_a_body_whose_bytes_keep_coming_is_not_hurried(charon: CharonProcess, backend: ScriptedBackend) -> None:
    arrived = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.read_head()
        for _ in range(10):
            assert connection.recv_exactly(1) == b"x"
            arrived.release()
        connection.send(http_response(200, b"all of it"))

    backend.script = script
    with RawClient(charon.port("body")) as client:
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        client.sock.settimeout(PAUSE)
        for _ in range(10):
            with pytest.raises(TimeoutError):  # ten pauses are longer than the time for one
                client.recv()
            client.send("x")
            assert arrived.acquire(timeout=PATIENCE)
        client.sock.settimeout(PATIENCE)
        assert client.read_response().body == b"all of it"


def test_a_client_that_hardly_reads_is_cut(charon: CharonProcess, backend: ScriptedBackend) -> None:
    """Room in the kernel's buffer counts once a third of it is free: single bytes taken from it do not."""
    left = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                connection.send(bytes(65_536))
        except ConnectionError:
            left.set()

    backend.script = script
    mark = charon.mark()
    with RawClient(charon.port("idle"), receive_buffer=4096) as client:
        client.request("GET /sipped")
        sip(lambda: client.recv(16), left)
    assert charon.wait_for_event("http_request", since=mark, path="/sipped")["reason"] == "client_too_slow"


def sip(read: Callable[[], bytes], until: threading.Event) -> None:
    cutoff = monotonic() + PATIENCE
    while not until.wait(PAUSE):
        read()
        assert monotonic() < cutoff, "it may go on for ever"
