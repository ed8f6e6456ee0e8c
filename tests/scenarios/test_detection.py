"""A listener with ``protocol: auto`` serves HTTP/1 and relays all else, and hands every byte on exactly once."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess

FIRST_BYTES = [
    case
    for case in yaml.safe_load((Path(__file__).parents[1] / "wire/cases/detect/tcp.yaml").read_text())
    if case["is"] == "tcp" and ("hex" in case or "text" in case)
]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def data_of(case: dict[str, str]) -> bytes:
    return bytes.fromhex(case["hex"]) if "hex" in case else case["text"].encode("latin-1")


def tell(connection: Connection) -> None:
    """Answer HTTP requests, and echo all else: the rest of a line that came in pieces may look like a request."""
    while data := connection.sock.recv(65_536):
        request = re.match(rb"([A-Z_-]+) \S+ HTTP/1.1\r\nHost: ", data, re.IGNORECASE)
        connection.send(http_response(200, request[1]) if request else data)


def speak_first(connection: Connection) -> None:
    connection.send(b"220 ready\r\n")
    tell(connection)


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon) -> Iterator[CharonProcess]:
    with ScriptedBackend(tell) as backend, ScriptedBackend(speak_first) as first:
        listeners = [
            {"name": "auto", "address": "127.0.0.1:0", "target_service_addr": backend.address},
            {"name": "first", "address": "127.0.0.1:0", "target_service_addr": first.address},
            {
                "name": "patient",
                "address": "127.0.0.1:0",
                "target_service_addr": backend.address,
                "timeouts": {"detect": "50ms", "client_header": "100ms"},
            },
        ]
        yield start_shared_charon({"protocol": "auto", "listeners": listeners})


def connect(charon: CharonProcess, listener: str = "auto") -> socket.socket:
    return socket.create_connection(("127.0.0.1", charon.port(listener)), PATIENCE)


def read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


@pytest.mark.parametrize("case", FIRST_BYTES, ids=lambda case: case["name"])
def test_what_is_not_http_is_relayed_byte_by_byte(charon: CharonProcess, case: dict[str, str]) -> None:
    data = data_of(case) + b"\x00and more"
    with connect(charon) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(data)):
            sock.sendall(data[place : place + 1])
        assert read(sock, len(data)) == data


def test_http_in_pieces_is_served_as_http(charon: CharonProcess) -> None:
    since = charon.mark()
    request = b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(charon) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(request)):
            sock.sendall(request[place : place + 1])
        assert sock.recv(65_536).endswith(b"GET")
        sock.sendall(request.replace(b"GET", b"PUT"))  # the connection stays an HTTP one
        assert sock.recv(65_536).endswith(b"PUT")
    lines = charon.wait_for_events("http_request", 2, since=since, path="/pieces")
    assert [line["method"] for line in lines] == ["GET", "PUT"]


def test_a_malformed_request_is_refused_as_on_any_http_listener(charon: CharonProcess) -> None:
    with connect(charon) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 400 ")


def test_http2_with_prior_knowledge_is_relayed(charon: CharonProcess) -> None:
    with connect(charon) as sock:
        sock.sendall(PREFACE)
        assert read(sock, len(PREFACE)) == PREFACE


def test_a_server_that_speaks_first(charon: CharonProcess) -> None:
    with connect(charon, "first") as sock:
        assert read(sock, 11) == b"220 ready\r\n"
        sock.sendall(b"GET / is no request now\r\n")
        assert read(sock, 25) == b"GET / is no request now\r\n"


def test_a_client_that_says_nothing_and_ends(charon: CharonProcess) -> None:
    since = charon.mark()
    with connect(charon) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(10) == b""
    charon.wait_for_event("tcp_connection", since=since, listener="auto", bytes_in=0)


def test_an_open_beginning_is_decided_in_time(charon: CharonProcess) -> None:
    with connect(charon, "patient") as sock:
        sock.sendall(b"HELLO")  # no method that is known: soon carried as it is
        assert read(sock, 5) == b"HELLO"
    with connect(charon, "patient") as sock:
        sock.sendall(b"GET ")  # a slow HTTP client is treated as one
        assert sock.recv(65_536).startswith(b"HTTP/1.1 408 ")
