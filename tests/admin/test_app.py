"""The admin socket: what it answers, and how it is made and taken away."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import gevent.socket
import pytest

from charon.admin.server import AdminServer, serve
from charon.base.errors import StartError
from tests.admin.world import World


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("admin")
        self._path = path

    def connect(self) -> None:
        self.sock = gevent.socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.sink.close()


@pytest.fixture
def server(world: World, tmp_path: Path) -> Iterator[AdminServer]:
    server = serve(str(tmp_path / "run" / "admin.sock"), world.app, world.events)
    yield server
    server.stop()


@pytest.fixture
def connection(server: AdminServer) -> Iterator[UnixConnection]:
    connection = UnixConnection(server.path)
    yield connection
    connection.close()


def ask(
    connection: UnixConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_metrics_are_fresh_and_negotiated(connection: UnixConnection, world: World) -> None:
    status, headers, body = ask(connection, "/metrics", Accept="a/b")
    assert (status, headers["content-type"], body) == (200, "text/plain", b"refreshed 1 a/b\n")
    assert ask(connection, "/metrics?name=x", Accept="")[2] == b"refreshed 2 \n"


def test_one_connection_serves_many_requests(connection: UnixConnection) -> None:
    for path in ("/metrics", "/nothing", "/api/status", "/livez", "/metrics"):
        _, headers, body = ask(connection, path)
        assert headers["content-length"] == str(len(body))
        assert headers.get("connection", "keep-alive").lower() == "keep-alive"
        sock = connection.sock
    assert sock is connection.sock is not None


def test_head_has_no_body(connection: UnixConnection) -> None:
    status, headers, body = ask(connection, "/livez", "HEAD")
    assert (status, headers["content-length"], body) == (200, "3", b"")
    assert ask(connection, "/livez")[2] == b"ok\n"


def test_readiness_says_why_not(connection: UnixConnection, world: World) -> None:
    assert ask(connection, "/readyz")[0] == 200
    world.obstacle = "draining"
    status, _, body = ask(connection, "/readyz")
    assert (status, body) == (503, b"draining\n")
    assert ask(connection, "/livez")[0] == 200


def test_status_is_json(connection: UnixConnection) -> None:
    status, headers, body = ask(connection, "/api/status")
    assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", {"workers": 2})
    assert json.loads(ask(connection, "/api/greenlets")[2]) == {"supervisor": ["health checks"]}


def test_what_is_asked_for_is_passed_on_and_nonsense_is_refused(connection: UnixConnection, world: World) -> None:
    assert ask(connection, "/api/status?services=5&history=true")[0] == 200
    assert ask(connection, "/api/problems?after=12")[0] == 200
    assert world.asked == [(5, True), 12]
    for path in (
        "/api/status?services=x", "/api/status?services=-1", "/api/status?services=1&services=2",
        "/api/status?history=1", "/api/status?more=1", "/api/problems?after=%C2%B2",
        "/api/problems?after=99999999999999999",
        "/api/problems?" + "&".join("a" * 20),
    ):  # fmt: skip
        status, _, body = ask(connection, path)
        assert (status, json.loads(body)["status"]) == (400, 400), path
    assert world.asked == [(5, True), 12]


def test_the_page_lets_nothing_in_and_nothing_out(connection: UnixConnection) -> None:
    status, headers, body = ask(connection, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>".encode(), body, re.DOTALL)
        assert f"{rule} 'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert not re.findall(rb"(?:src|href)=[\"'](?!data:|#)", body), "nothing is loaded from elsewhere"
    assert b"innerHTML" not in body and b"insertAdjacentHTML" not in body and b"document.write" not in body
    assert b" style=" not in body and not re.findall(rb" on[a-z]+=", body)


def test_errors_are_json(connection: UnixConnection) -> None:
    status, headers, body = ask(connection, "/nothing")
    assert (status, headers["content-type"], json.loads(body)["status"]) == (404, "application/json", 404)
    status, headers, body = ask(connection, "/metrics", "POST")
    assert (status, headers["allow"], json.loads(body)["status"]) == (405, "GET, HEAD", 405)


def test_a_failure_is_an_answer_and_an_event(
    connection: UnixConnection, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.state = {"unspeakable": object()}
    status, _, body = ask(connection, "/api/status")
    assert (status, json.loads(body)["status"]) == (500, 500)
    event = world.logged()[-1]
    assert (event["message"], event["level"], event["path"]) == ("admin_failed", "error", "/api/status")
    assert "stack" in event
    assert ask(connection, "/livez")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_malformed_requests_go_to_the_event_log(
    server: AdminServer, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    client = gevent.socket.socket(socket.AF_UNIX)
    client.connect(server.path)
    client.sendall(b"nonsense\r\n\r\n")
    assert client.recv(100).startswith(b"HTTP/1.1 400")
    client.close()
    assert world.logged()[-1]["message"] == "admin_failed"
    assert capfd.readouterr() == ("", "")


def test_the_socket_is_for_owner_and_group_and_goes_with_the_server(server: AdminServer) -> None:
    status = os.stat(server.path)
    assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o660
    server.stop()
    assert not os.path.exists(server.path)


def test_folders_that_are_missing_are_made_for_owner_and_group(world: World, tmp_path: Path) -> None:
    server = serve(str(tmp_path / "a" / "b" / "admin.sock"), world.app, world.events)
    server.stop()
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_a_folder_that_is_there_keeps_its_mode(world: World, tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    serve(str(tmp_path / "admin.sock"), world.app, world.events).stop()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711


def test_a_folder_of_somebody_else_is_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the folder can put a socket of their own in the place of ours."""
    somebody = 4242
    if os.geteuid() == 0:
        os.chown(tmp_path, somebody, -1)
    else:  # only root can give a folder away: be somebody else instead
        somebody = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: somebody + 1)
    with pytest.raises(StartError, match=f"belongs to user {somebody}.*admin.socket"):
        serve(str(tmp_path / "admin.sock"), world.app, world.events)
    assert not (tmp_path / "admin.sock").exists()


def test_a_stale_socket_is_replaced(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    old = socket.socket(socket.AF_UNIX)
    old.bind(path)
    old.close()
    server = serve(path, world.app, world.events)
    assert ask(UnixConnection(path), "/livez")[0] == 200
    server.stop()


def test_a_live_socket_is_left_alone(server: AdminServer, world: World) -> None:
    with pytest.raises(StartError, match=r"admin\.sock"):
        serve(server.path, world.app, world.events)
    assert ask(UnixConnection(server.path), "/livez")[0] == 200


def test_what_is_no_socket_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "admin.sock").write_text("precious")
    with pytest.raises(StartError):
        serve(str(tmp_path / "admin.sock"), world.app, world.events)
    assert (tmp_path / "admin.sock").read_text() == "precious"


def test_impossible_paths_are_start_errors(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "admin.sock", tmp_path / ("x" * 200)):
        with pytest.raises(StartError):
            serve(str(path), world.app, world.events)


def test_a_successors_socket_is_not_removed(server: AdminServer, world: World) -> None:
    os.unlink(server.path)
    successor = serve(server.path, world.app, world.events)
    server.stop()
    assert ask(UnixConnection(successor.path), "/livez")[0] == 200
    successor.stop()
