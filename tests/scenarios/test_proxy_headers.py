"""The PROXY protocol: believed from proxies that are named, from nobody else, and told to services that want it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
CLIENT_V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n"
CLIENT_V2 = V2_SIGNATURE + bytes.fromhex("2111000c c0000207 c6336401 1267 0050")
REQUEST = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


def show(connection: Connection) -> None:
    """Answer each request with everything that has come before its end."""
    data = b""
    while more := connection.sock.recv(65_536):
        data += more
        if data.endswith(b"\r\n\r\n"):
            data = http_response(200, data)
        elif data.startswith(b"PROXY") or b"HTTP/1.1" in data:
            continue
        connection.send(data)
        data = b""


@pytest.fixture(scope="module")
def backend() -> Iterator[ScriptedBackend]:
    with ScriptedBackend(show) as backend:
        yield backend


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, backend: ScriptedBackend) -> CharonProcess:
    services = {name: {"addresses": [backend.address], "proxy_protocol": name} for name in ("v1", "v2")}
    here = {"address": "127.0.0.1:0", "target_service_addr": backend.address}
    accept = {"accept": ["127.0.0.1"]}
    listeners = [
        {"name": "http", **here, "proxy_protocol": accept},
        {"name": "auto", "protocol": "auto", **here, "proxy_protocol": accept},
        {"name": "tcp", "protocol": "tcp", **here, "proxy_protocol": accept},
        {"name": "others", **here, "proxy_protocol": {"accept": ["192.0.2.0/24"]}},
        {"name": "slow", **here, "proxy_protocol": accept, "timeouts": {"client_header": "100ms"}},
        {"name": "to-v1", "address": "127.0.0.1:0", "target_service_name": "v1"},
        {"name": "to-v2", "address": "127.0.0.1:0", "target_service_name": "v2", "protocol": "tcp"},
    ]
    return start_shared_charon({"listeners": listeners, "services": services})


def connect(charon: CharonProcess, listener: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", charon.port(listener)), PATIENCE)


@pytest.mark.parametrize("listener", ["http", "auto"])
@pytest.mark.parametrize("header", [CLIENT_V1, CLIENT_V2], ids=["v1", "v2"])
def test_the_client_is_the_one_that_the_header_names(charon: CharonProcess, listener: str, header: bytes) -> None:
    since = charon.mark()
    with connect(charon, listener) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(header)):
            sock.sendall(header[place : place + 1])
        sock.sendall(REQUEST % b"one")
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in sock.recv(65_536)
        sock.sendall(REQUEST % b"two")  # there is one header a connection
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in sock.recv(65_536)
    lines = charon.wait_for_events("http_request", 2, since=since, listener=listener)
    assert {line["client"] for line in lines} == {"192.0.2.7"}


def test_a_header_and_what_follows_in_one_piece(charon: CharonProcess) -> None:
    since = charon.mark()
    with connect(charon, "tcp") as sock:
        sock.sendall(CLIENT_V2 + b"payload")
        assert sock.recv(100) == b"payload"
    line = charon.wait_for_event("tcp_connection", since=since, listener="tcp")
    assert (line["client"], line["bytes_in"], line["bytes_out"]) == ("192.0.2.7", 7, 7)


def test_a_connection_of_the_proxy_itself_keeps_its_address(charon: CharonProcess) -> None:
    with connect(charon, "http") as sock:
        sock.sendall(V2_SIGNATURE + b"\x20\x00\x00\x00" + REQUEST % b"")
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in sock.recv(65_536)


def test_from_a_proxy_there_must_be_a_header(charon: CharonProcess) -> None:
    since = charon.mark()
    for sent in (REQUEST % b"", b"PROXY TCP4 1.2.3.4\r\n", CLIENT_V1[:20]):  # none, a broken one, half of one
        with connect(charon, "slow") as sock:
            sock.sendall(sent)
            try:
                assert sock.recv(100) == b""
            except ConnectionResetError:
                pass  # there was more than had been read
    line = charon.wait_for_event("proxy_header_refused", since=since)
    assert (line["listener"], line["client"], line["reason"]) == ("slow", "127.0.0.1", "bad_proxy_header")
    assert not [line for line in charon.log_lines("http_request")[since:] if line["listener"] == "slow"]


def test_the_word_of_others_is_data(charon: CharonProcess) -> None:
    with connect(charon, "others") as sock:
        sock.sendall(CLIENT_V1 + REQUEST % b"")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 400 ")


def test_a_service_is_told_of_each_client_on_connections_of_their_own(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    before = len(backend.connections)
    for _ in range(2):
        with connect(charon, "to-v1") as sock:
            sock.sendall(REQUEST % b"")
            shown = sock.recv(65_536).partition(b"\r\n\r\n")[2]
            port = sock.getsockname()[1]
        assert shown.startswith(f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {charon.port('to-v1')}\r\nGET / ".encode())
    assert len(backend.connections) == before + 2


def test_a_service_is_told_in_version_2(charon: CharonProcess) -> None:
    with connect(charon, "to-v2") as sock:
        sock.sendall(b"payload")
        port = sock.getsockname()[1]
        ends = port.to_bytes(2) + charon.port("to-v2").to_bytes(2)
        expected = V2_SIGNATURE + b"\x21\x11\x00\x0c" + 2 * b"\x7f\x00\x00\x01" + ends
        echoed = b""
        while len(echoed) < len(expected) + 7:
            echoed += sock.recv(100)
    assert echoed == expected + b"payload"
