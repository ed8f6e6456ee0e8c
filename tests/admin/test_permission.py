"""Who may do what: by user on the Unix socket, by token over TCP, and no page of a stranger's either way."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

from charon.admin import server as admin_server
from charon.admin.permission import PEER, Peer, Permissions, Rights, TokenProblem, read_token, why_foreign
from charon.admin.server import AdminServer, serve
from charon.base.errors import StartError
from tests.admin.world import World

READ, WRITE = "the-token-to-look-with", "the-token-to-act-with"
NOBODY = 65534


def token_file(folder: Path, name: str, content: str, mode: int = 0o600) -> str:
    path = folder / name
    path.write_text(content)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def permissions(tmp_path: Path) -> Permissions:
    return Permissions(token_file(tmp_path, "read", READ + "\n"), token_file(tmp_path, "write", WRITE, 0o640))


@pytest.fixture
def world(tmp_path: Path, permissions: Permissions) -> Iterator[World]:
    world = World(tmp_path, permissions)
    yield world
    world.sink.close()


@pytest.fixture
def server(world: World, tmp_path: Path, permissions: Permissions) -> Iterator[AdminServer]:
    path = str(tmp_path / "admin.sock")
    server = serve(path, world.app, world.events, address="127.0.0.1:0", permissions=permissions)
    yield server
    server.stop()


class TcpConnection(http.client.HTTPConnection):
    def __init__(self, server: AdminServer) -> None:
        assert server.tcp is not None
        super().__init__(*server.tcp.address[:2])

    def connect(self) -> None:
        self.sock = gevent.socket.create_connection((self.host, self.port))


def ask(server: AdminServer, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = TcpConnection(server)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def bearer(token: str) -> str:
    return f"Bearer {token}"


# -- TCP ----------------------------------------------------------------------------------------------------------


def test_without_a_token_tcp_tells_only_whether_charon_is_there(server: AdminServer) -> None:
    assert [ask(server, path)[0] for path in ("/livez", "/readyz", "/")] == [200, 200, 200]
    for path in ("/metrics", "/api/status", "/api/config", "/api/openapi.json", "/nothing"):
        assert ask(server, path)[0] == 401, path
    for path in ("/api/reload", "/api/drain", "/api/log-level"):
        assert ask(server, path, "POST")[0] == 401, path


@pytest.mark.parametrize(
    "field", [READ, "Bearer", bearer("wrong"), bearer(READ + "x"), f"Basic {READ}", bearer("é" * 20)]
)
def test_what_is_no_token_opens_nothing(server: AdminServer, field: str) -> None:
    status, body = ask(server, "/api/status", Authorization=field)
    assert (status, json.loads(body)["status"]) == (401, 401)


def test_one_token_looks_and_the_other_acts(server: AdminServer, world: World) -> None:
    assert ask(server, "/api/status", Authorization=bearer(READ))[0] == 200
    assert ask(server, "/metrics", Authorization=f"bearer  {READ}")[0] == 200
    assert ask(server, "/api/drain", "POST", Authorization=bearer(READ))[0] == 403
    assert world.asked == [(None, False)]
    assert ask(server, "/api/status", Authorization=bearer(WRITE))[0] == 200
    assert ask(server, "/api/drain", "POST", Authorization=bearer(WRITE))[0] == 202
    assert world.asked[-1] == 0.0


def test_a_token_can_be_replaced_while_charon_runs(server: AdminServer, tmp_path: Path, world: World) -> None:
    token_file(tmp_path, "read", "another-token-to-look-with")
    assert ask(server, "/api/status", Authorization=bearer(READ))[0] == 401
    assert ask(server, "/api/status", Authorization=bearer("another-token-to-look-with"))[0] == 200
    (tmp_path / "read").chmod(0o644)
    assert ask(server, "/api/status", Authorization=bearer("another-token-to-look-with"))[0] == 401
    assert "open to everybody" in world.logged()[-1]["text"]


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (READ, 0o604, "open to everybody"),
        ("", 0o600, "does not hold a token"),
        ("short", 0o600, "does not hold a token"),
        ("two words that are long enough", 0o600, "does not hold a token"),
        ("ä" * 20, 0o600, "does not hold a token"),
        ("x" * 5000, 0o600, "does not hold a token"),
    ],
)
def test_bad_token_files_are_refused(tmp_path: Path, content: str, mode: int, why: str) -> None:
    with pytest.raises(TokenProblem, match=why):
        read_token(token_file(tmp_path, "token", content, mode))


def test_charon_does_not_start_with_a_bad_token(world: World, tmp_path: Path) -> None:
    for permissions in (Permissions(str(tmp_path / "none")), Permissions(None, token_file(tmp_path, "t", "x"))):
        with pytest.raises(StartError, match="token file"):
            serve(str(tmp_path / "a.sock"), world.app, world.events, address="127.0.0.1:0", permissions=permissions)
        assert not (tmp_path / "a.sock").exists()


def test_a_taken_address_leaves_nothing_behind(server: AdminServer, world: World, tmp_path: Path) -> None:
    assert server.tcp is not None
    host, port = server.tcp.address[:2]
    with pytest.raises(StartError, match=str(port)):
        serve(str(tmp_path / "other.sock"), world.app, world.events, address=f"{host}:{port}")
    assert not (tmp_path / "other.sock").exists()


def test_a_request_over_tcp_has_to_arrive_in_time(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a head and half a body are given up; the connections before and after are served."""
    monkeypatch.setattr(admin_server, "REQUEST_SECONDS", 0.05)
    assert server.tcp is not None
    for part in (b"GET /livez HTT", b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ", b"POST /api/drain HTTP/1.1\r\nHost: a\r\n"
                 b"Authorization: Bearer " + WRITE.encode() + b"\r\nContent-Length: 9\r\n\r\n{"):  # fmt: skip
        client = gevent.socket.create_connection(server.tcp.address)
        client.sendall(part)
        with gevent.Timeout(10):
            assert client.recv(100) == b"", part
        client.close()
    assert ask(server, "/livez")[0] == 200


def test_a_body_that_is_announced_too_long_is_not_read(server: AdminServer) -> None:
    assert ask(server, "/api/drain", "POST", Authorization=bearer(WRITE), Content_Length=str(1 << 40))[0] == 400
    assert ask(server, "/livez")[0] == 200


# -- the Unix socket ----------------------------------------------------------------------------------------------


def test_the_owner_and_root_act_and_others_who_may_open_the_socket_look() -> None:
    def rights(uid: int, **how: Any) -> Rights:
        return Permissions(**how).rights({PEER: Peer(uid)})

    assert rights(os.geteuid()) is rights(0) is Rights.WRITE
    assert rights(NOBODY) is Rights.READ
    assert rights(NOBODY, group_may_write=True) is Rights.WRITE


def test_the_kernel_says_who_asks(world: World) -> None:
    """A process of another user, which the socket's mode lets in: it sees the state, and changes nothing."""
    curl = shutil.which("curl")
    if os.geteuid() != 0 or curl is None:
        pytest.skip("needs curl, and root to be somebody else")
    folder = Path(tempfile.mkdtemp(prefix="charon-test-"))
    folder.chmod(0o755)
    server = serve(str(folder / "admin.sock"), world.app, world.events, mode=0o666)
    command = [curl, "-s", "-o", "/dev/null", "-w", "%{http_code} ", "--unix-socket", server.path]

    def ask_as_nobody(*what: str) -> str:
        nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
        run = partial(subprocess.run, capture_output=True, text=True, **nobody)
        done = gevent.get_hub().threadpool.apply(run, ([*command, *what],))  # meanwhile the server's greenlets go on
        return str(done.stdout)

    try:
        assert ask_as_nobody("http://charon/api/status") == "200 "
        assert ask_as_nobody("-X", "POST", "http://charon/api/drain") == "403 "
    finally:
        server.stop()
        folder.rmdir()
    assert world.asked == [(None, False)]


# -- pages of strangers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({"HTTP_HOST": "localhost:9901"}, False),
        ({"HTTP_HOST": "127.0.0.1:9901", "HTTP_ORIGIN": "http://127.0.0.1:9901"}, False),
        ({"HTTP_HOST": "[::1]:9901", "HTTP_SEC_FETCH_SITE": "same-origin"}, False),
        ({"HTTP_HOST": "charon.localhost", "HTTP_SEC_FETCH_SITE": "none"}, False),
        ({"HTTP_HOST": "charon"}, False),
        ({}, False),
        ({"HTTP_HOST": "evil.example:9901"}, True),  # a name that was made to point here
        ({"HTTP_HOST": "evil.example:9901", "HTTP_ORIGIN": "http://evil.example:9901"}, True),
        ({"HTTP_HOST": "localhost.evil.example"}, True),
        ({"HTTP_HOST": "localhost:9901", "HTTP_ORIGIN": "http://evil.example"}, True),
        ({"HTTP_HOST": "localhost:9901", "HTTP_ORIGIN": "http://localhost:3000"}, True),
        ({"HTTP_HOST": "localhost:9901", "HTTP_ORIGIN": "null"}, True),
        ({"HTTP_HOST": "localhost:9901", "HTTP_SEC_FETCH_SITE": "cross-site"}, True),
        ({"HTTP_HOST": "localhost:9901", "HTTP_SEC_FETCH_SITE": "same-site"}, True),
    ],
)
def test_pages_of_others_are_told_apart(headers: dict[str, str], foreign: bool) -> None:
    assert (why_foreign({PEER: Peer(0), **headers}) is not None) is foreign


def test_a_strangers_page_gets_nothing_whatever_the_user_may_do(server: AdminServer, world: World) -> None:
    def over_unix(head: str) -> int:
        client = gevent.socket.socket(socket.AF_UNIX)
        client.connect(server.path)
        client.sendall(f"{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
        client.close()
        return int(answer.split()[1])

    assert over_unix("GET /api/status HTTP/1.1\r\nHost: evil.example") == 403
    assert over_unix("POST /api/drain HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example") == 403
    assert over_unix("GET / HTTP/1.1\r\nHost: evil.example") == 403
    assert world.asked == []
    assert over_unix("GET /metrics HTTP/1.1\r\nHost: shop.example") == 200, "as a proxy listener passes it on"
    token = bearer(WRITE)
    assert ask(server, "/api/drain", "POST", Authorization=token, Origin="http://evil.example")[0] == 403
    assert ask(server, "/api/drain", "POST", Authorization=token, Host="charon.internal:9901")[0] == 202
