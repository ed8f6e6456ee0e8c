"""Connections that become something else: WebSocket and other upgrades."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import websockets.exceptions
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: talk\r\n\r\n"
ASK = ("Connection: Upgrade", "Upgrade: talk")


def echo(connection: ServerConnection) -> None:
    if connection.request is not None and connection.request.path == "/server-first":
        connection.send("welcome")
    for message in connection:
        if message == "leave":
            connection.close(4001, "as asked")
            return
        connection.send(message)


@contextmanager
def websocket_server() -> Iterator[str]:
    with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(PATIENCE)


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> Iterator[CharonProcess]:
    with websocket_server() as address:
        yield start_shared_charon(
            {
                "listeners": [
                    {"name": "chat", "address": "127.0.0.1:0", "target_service_name": "chat"},
                    {"name": "raw", "address": "127.0.0.1:0", "target_service_name": "raw"},
                    {
                        "name": "raw-idle",
                        "address": "127.0.0.1:0",
                        "target_service_name": "raw",
                        "timeouts": {"idle": "200ms"},
                    },
                ]
            },
            {"chat": address, "raw": shared_backend.address},
        )


Chat = Callable[..., AbstractContextManager[ClientConnection]]


@pytest.fixture
def chat(charon: CharonProcess) -> Chat:
    """A WebSocket client; no proxy of the environment comes between."""
    return lambda path="/": connect(
        f"ws://127.0.0.1:{charon.port('chat')}{path}",
        max_size=None,
        proxy=None,
        open_timeout=PATIENCE,
        compression=None,
    )


def test_websocket_text_and_binary_are_echoed(chat: Chat) -> None:
    with chat() as socket:
        for message in ("hello", "grüße", b"\x00\x01\xff", "", b""):
            socket.send(message)
            assert socket.recv(PATIENCE) == message


def test_large_websocket_frames_are_echoed(chat: Chat) -> None:
    with chat() as socket:
        for size in (125, 126, 65_535, 65_536, 3_000_000):
            message = bytes(range(251)) * (size // 251 + 1)
            socket.send(message[:size])
            assert socket.recv(PATIENCE) == message[:size]


def test_what_a_websocket_server_says_first_arrives(chat: Chat) -> None:
    for _ in range(10):
        with chat("/server-first") as socket:
            assert socket.recv(PATIENCE) == "welcome"
            socket.send("and so on")
            assert socket.recv(PATIENCE) == "and so on"


def test_websocket_pings_are_answered(chat: Chat) -> None:
    with chat() as socket:
        assert socket.ping(b"there?").wait(PATIENCE)


def test_a_close_code_of_the_server_reaches_the_client(chat: Chat) -> None:
    with chat() as socket:
        socket.send("leave")
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            socket.recv(PATIENCE)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


def test_a_websocket_is_one_access_line_with_its_bytes(charon: CharonProcess, chat: Chat) -> None:
    with chat("/line") as socket:
        socket.send(b"x" * 1000)
        socket.recv(PATIENCE)
        socket.close(1000)
    line = charon.wait_for_event("http_request", path="/line")
    assert (line["status"], line["method"]) == (101, "GET") and "reason" not in line
    assert 1000 < line["bytes_in"] < 1100 and 1000 < line["size_bytes"] < 1100


def test_many_websockets_at_once(chat: Chat) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(chat()) for _ in range(20)]
        for number, socket in enumerate(sockets):
            socket.send(f"{number}")
        assert [socket.recv(PATIENCE) for socket in sockets] == [f"{n}" for n in range(20)]


# -- byte by byte -------------------------------------------------------------------------------------------------


def test_bytes_right_behind_the_switch_arrive_both_ways(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        request = connection.read_head()
        assert (request.get("Connection"), request.get("Upgrade")) == ("Upgrade", "talk")
        connection.send(SWITCHED + b"server first")
        assert connection.recv_exactly(12) == b"client first"
        connection.send(b"bye")

    backend.script = script
    with RawClient(charon.port("raw")) as client:
        client.request("GET /", *ASK)
        client.send(b"client first")
        head = client.read_head()
        assert (head.status, head.get("Connection"), head.get("Upgrade")) == (101, "Upgrade", "talk")
        assert client.read_until_close() == b"server firstbye"


def test_an_upgrade_half_closes_in_each_direction(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(SWITCHED)
        assert connection.wait_for_end()
        connection.send(b"after your end: %d bytes" % (len(connection.received.partition(b"\r\n\r\n")[2])))

    backend.script = script
    with RawClient(charon.port("raw")) as client:
        client.request("GET /half", *ASK)
        assert client.read_head().status == 101
        client.send(b"x" * 1000)
        client.half_close()
        assert client.read_until_close() == b"after your end: 1000 bytes"


def test_an_upgrade_that_is_declined_is_an_ordinary_answer(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"no thanks"))
    with RawClient(charon.port("raw")) as client:
        assert client.get("/", *ASK).body == b"no thanks"
        assert client.get("/").body == b"no thanks"
    assert backend.requests[1].get("Upgrade") is None


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0", "HTTP/2.0"])
def test_upgrades_that_would_carry_further_requests_are_not_passed_on(
    charon: CharonProcess, backend: ScriptedBackend, protocol: str
) -> None:
    backend.serve(http_response(200, b"plain"))
    with RawClient(charon.port("raw")) as client:
        assert client.get("/", "Connection: Upgrade", f"Upgrade: {protocol}").body == b"plain"
    assert backend.requests[0].get("Upgrade") is None


def test_an_upgrade_with_a_body_is_switched_after_it(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        request = connection.read_request()
        connection.send(SWITCHED)
        connection.send(request.body + connection.recv_exactly(4))

    backend.script = script
    with RawClient(charon.port("raw")) as client:
        client.request("POST /", *ASK, body=b"body")
        assert client.read_head().status == 101
        client.send(b"more")
        assert client.read_until_close() == b"bodymore"


def test_what_a_client_sends_right_behind_its_body_is_not_lost(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        assert connection.read_request().body == b"body"
        connection.send(SWITCHED)
        connection.send(connection.recv_exactly(9))

    backend.script = script
    with RawClient(charon.port("raw")) as client:
        client.request("POST /", "Connection: Upgrade", "Upgrade: talk", body=b"body")
        client.send(b"later")
        assert client.read_head().status == 101
        client.send(b"more")
        assert client.read_until_close() == b"latermore"
    backend.forget()
    backend.script = script
    with RawClient(charon.port("raw")) as client:
        head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: talk\r\nContent-Length: 4\r\n\r\n"
        client.send(head + "body" + "at onc")
        assert client.read_head().status == 101
        client.send(b"e..")
        assert client.read_until_close() == b"at once.."


def test_a_switch_before_the_request_is_whole_is_502(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(SWITCHED)
        connection.wait_for_end()

    backend.script = script
    with RawClient(charon.port("raw")) as client:
        client.send("POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: talk\r\nContent-Length: 4\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.error) == (502, "upstream_malformed")
        assert client.ended()


def test_an_upgrade_on_which_nothing_moves_ends(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(SWITCHED)
        connection.wait_for_end()

    backend.script = script
    with RawClient(charon.port("raw-idle")) as client:
        client.request("GET /silent", *ASK)
        assert client.read_head().status == 101
        with pytest.raises(ConnectionResetError):
            client.recv()
    line = charon.wait_for_event("http_request", path="/silent")
    assert (line["status"], line["reason"]) == (101, "idle_timeout")


def test_a_reset_goes_through_an_upgrade(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(SWITCHED + b"data")
        connection.recv_exactly(2)
        connection.reset()

    backend.script = script
    with RawClient(charon.port("raw")) as client:
        client.request("GET /reset", *ASK)
        assert client.read_head().status == 101
        assert client.recv_exactly(4) == b"data"
        client.send(b"ok")
        with pytest.raises(ConnectionResetError):
            client.recv()
    assert charon.wait_for_event("http_request", path="/reset")["reason"] == "upstream_reset"
