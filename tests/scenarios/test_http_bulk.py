"""Large bodies of known length, which the kernel moves: byte-exact, not a byte too many, and broken if they break."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Connection, Script, ScriptedBackend, http_response, refused_address
from tests.harness.charon import CharonProcess, descriptors
from tests.harness.client import Broken, RawClient

BODY = random.Random(41).randbytes(30_000_000)
OTHER = random.Random(42).randbytes(5_000_000)
PART = 8_000_000
"""So much of a body is sent before something goes wrong: far into it, and more than buffers hold."""


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    def listener(name: str, service: str = "app", **timeouts: str) -> dict[str, object]:
        return {"name": name, "address": "127.0.0.1:0", "target_service_name": service, "timeouts": timeouts}

    return start_shared_charon(
        {
            "listeners": [
                listener("web"),
                listener("refused", "refused"),
                listener("idle", idle="300ms"),
                listener("deadline", request="500ms"),
                listener("client-body", client_body="300ms"),
            ],
        },
        {"app": shared_backend.address, "refused": refused_address()},
    )


@pytest.fixture
def client(charon: CharonProcess) -> Iterator[RawClient]:
    with RawClient(charon.port("web")) as client:
        yield client


def digest(body: bytes | memoryview) -> str:
    return hashlib.sha256(body).hexdigest()


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def pipes(charon: CharonProcess) -> int:
    return sum(target.startswith("pipe:") for target in descriptors(charon.worker_pids()[0]))


def answering_in_turn(*answers: bytes) -> Script:
    def script(connection: Connection) -> None:
        for answer in answers:
            connection.read_request()
            connection.send(answer)
        connection.wait_for_end()

    return script


def test_pipelined_downloads_are_byte_exact_and_go_through_a_pipe(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    """They share one connection on either side, so that a byte too many would be the next answer's."""
    backend.script = answering_in_turn(*[http_response(200, body) for body in (BODY, OTHER, b"small")])
    before, mark = pipes(charon), charon.mark("refused")
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3)))
    bodies = [client.read_response().body for _ in range(3)]
    assert [digest(body) for body in bodies] == [digest(BODY), digest(OTHER), digest(b"small")]
    assert pipes(charon) > before, "the bulk was copied, not spliced"
    assert len(backend.connections) == 1
    for number, body in enumerate(bodies):
        line = charon.wait_for_event("http_request", since=mark, path=f"/{number}")
        assert line["size_bytes"] == len(body)


def test_what_follows_an_upload_is_the_next_request(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    backend.serve(lambda request: http_response(200, digest(request.body).encode()))
    mark = charon.mark("refused")
    for path, body in (("/one", BODY), ("/two", OTHER), ("/three", b"")):
        client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert [client.read_response().body.decode() for _ in range(3)] == [digest(BODY), digest(OTHER), digest(b"")]
    assert len(backend.connections) == 1
    assert charon.wait_for_event("http_request", since=mark, path="/one")["bytes_in"] == len(BODY)
    assert charon.wait_for_event("http_request", since=mark, path="/two")["bytes_in"] == len(OTHER)


def test_bytes_behind_a_large_answer_reach_nobody(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    forged = http_response(200, b"forged")
    backend.script = answering_in_turn(http_response(200, BODY) + forged)
    assert digest(client.get().body) == digest(BODY)
    backend.script = answering_in_turn(http_response(200, b"true"))
    assert client.get().body == b"true"
    assert len(backend.connections) == 2, "a connection with bytes that nobody asked for is not used again"


def test_an_answer_that_ends_with_its_connection_is_byte_exact(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)

    backend.script = script
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    response = client.read_response()
    assert response.closed and digest(response.body) == digest(BODY)


@pytest.mark.parametrize("framing", ["length", "until close"])
def test_a_large_answer_that_breaks_off_is_broken_for_the_client(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend, framing: str
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        length = b"Content-Length: %d\r\n" % len(BODY) if framing == "length" else b""
        connection.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + BODY[:PART])
        if framing == "until close":
            connection.reset()

    backend.script = script
    mark = charon.mark("refused")
    client.send(f"GET /broken HTTP/1.{'1' if framing == 'length' else '0'}\r\nHost: a\r\n\r\n")
    with pytest.raises(Broken) as broken:
        client.read_response()
    assert BODY.startswith(broken.value.partial)
    if framing == "length":
        assert len(broken.value.partial) == PART, "what has come is passed on"
    line = charon.wait_for_event("http_request", since=mark, path="/broken")
    assert (line["status"], line["reason"], line["size_bytes"] <= PART) == (200, "upstream_truncated", True)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_a_large_answer_leaves_no_byte_of_it_to_others(
    charon: CharonProcess, backend: ScriptedBackend, how: str
) -> None:
    left = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        try:
            connection.send(http_response(200, BODY))
            connection.wait_for_end()
        finally:
            left.set()

    backend.script = script
    mark = charon.mark("refused")
    client = RawClient(charon.port("web"), receive_buffer=65_536)
    client.request("GET /left")
    client.read_head()
    assert client.recv_exactly(PART) == BODY[:PART]
    client.close() if how == "close" else client.reset()
    wait(left)
    line = charon.wait_for_event("http_request", since=mark, path="/left")
    assert line["reason"] == "client_abort" and PART <= line["size_bytes"] < len(BODY)
    backend.script = answering_in_turn(http_response(200, OTHER))
    with RawClient(charon.port("web")) as other:
        assert digest(other.get().body) == digest(OTHER)


def test_a_client_that_breaks_off_a_large_upload_breaks_the_request(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    received: list[bytes] = []
    ended = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        received.append(b"".join(iter(connection.recv, b"")))
        ended.set()

    backend.script = script
    mark = charon.mark("refused")
    client = RawClient(charon.port("web"))
    client.send(f"POST /broken HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n")
    client.send(BODY[:PART])
    client.close()
    wait(ended)
    assert BODY.startswith(received[0]) and len(received[0]) <= PART
    line = charon.wait_for_event("http_request", since=mark, path="/broken")
    assert (line["status"], line["reason"], line["bytes_in"]) == (499, "client_abort", PART)


@pytest.mark.parametrize(("listener", "reason"), [("idle", "upstream_idle"), ("deadline", "request_deadline")])
def test_a_large_answer_that_stalls_is_broken(
    charon: CharonProcess, backend: ScriptedBackend, listener: str, reason: str
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[:PART])
        connection.wait_for_end()

    backend.script = script
    mark = charon.mark("refused")
    with RawClient(charon.port(listener)) as client:
        client.request("GET /stalls")
        with pytest.raises(Broken) as broken:
            client.read_response()
    assert broken.value.partial == BODY[:PART]
    assert charon.wait_for_event("http_request", since=mark, path="/stalls")["reason"] == reason


def test_a_client_that_takes_no_more_of_a_large_answer_is_left(charon: CharonProcess, backend: ScriptedBackend) -> None:
    left = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        try:
            connection.send(http_response(200, BODY))
        finally:
            left.set()

    backend.script = script
    mark = charon.mark("refused")
    with RawClient(charon.port("idle"), receive_buffer=4096) as client:
        client.request("GET /untaken")
        client.read_head()
        client.recv_exactly(1_000_000)
        assert charon.wait_for_event("http_request", since=mark, path="/untaken")["reason"] == "client_too_slow"
        wait(left)


def test_a_large_upload_that_stalls_is_408(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.wait_for_end()

    backend.script = script
    with RawClient(charon.port("client-body")) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n")
        client.send(BODY[:PART])
        response = client.read_response()
        assert (response.status, response.error) == (408, "client_too_slow")


def test_an_early_answer_ends_a_large_upload(client: RawClient, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.recv_exactly(PART)
        connection.send(http_response(413, b"enough", "Connection: close"))
        connection.wait_for_end()

    backend.script = script
    client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n")
    client.send(BODY[: PART + 1_000_000])
    response = client.read_response()
    assert (response.status, response.body) == (413, b"enough")
    assert client.ended()


def test_a_download_does_not_keep_other_requests_waiting(charon: CharonProcess, backend: ScriptedBackend) -> None:
    stop = threading.Event()

    def script(connection: Connection) -> None:
        request = connection.read_request()
        if request.target == "/small":
            connection.send(http_response(200, b"small", "Connection: close"))
            return
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        while not stop.is_set():
            connection.send(BODY[: 1 << 20])

    def drain(sock: socket.socket) -> None:
        while sock.recv(1 << 20):
            pass

    backend.script = script
    with RawClient(charon.port("web")) as bulk, RawClient(charon.port("web")) as client:
        bulk.request("GET /bulk")
        draining = threading.Thread(target=drain, args=(bulk.sock,), daemon=True)
        draining.start()
        for _ in range(20):  # the client's own patience bounds each of them
            assert client.get("/small").body == b"small"
        stop.set()
        draining.join()
