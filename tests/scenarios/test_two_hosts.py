"""Two machines, a Charon on each, an authority that both believe: application, Charon, mTLS, Charon, application."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.authority import Authority
from tests.harness.backends import Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient
from tests.harness.namespaces import Host, available, two_hosts

pytestmark = pytest.mark.skipif(not available, reason="network namespaces take root and iproute2")

SHOP, WEB, DB = (f"spiffe://example.org/{name}" for name in ("shop", "web", "db"))


class Machines:
    """The shop on one machine, web and db on the other. ``shop`` and ``web`` are the Charons."""

    def __init__(self, a: Host, b: Host, shop: CharonProcess, web: CharonProcess, app: ScriptedBackend) -> None:
        self.a, self.b = a, b
        self.shop, self.web = shop, web
        self.app = app

    def client(self, listener: str) -> RawClient:
        """What the shop's application opens: a plain connection on its own machine."""
        return self.a.run(lambda: RawClient(self.shop.port(listener)))


def app(connection: Connection) -> None:
    """Speaks HTTP, and echoes after an upgrade or anything that is no HTTP."""
    first = connection.recv(5)
    if first == b"HELLO":
        connection.send(first)
    else:
        head = connection.recv_until(b"\r\n\r\n")
        if b"pgrade: websocket" not in head:
            connection.send(http_response(200, first + head, "Connection: close"))
            return
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    while data := connection.recv():
        connection.send(data)


def certificates(folder: Path, ca: Authority, server: str, client: str) -> dict[str, object]:
    """What an operator puts on a machine: no key of the authority among it."""
    folder.mkdir()
    (folder / "ca-cert.pem").write_bytes(ca.pem)
    for kind, identity in (("server", server), ("client", client)):
        cert, key = ca.issue(identity, hosts=()).write(folder, kind)
        Path(cert).rename(folder / f"{kind}-cert.pem")
        Path(key).rename(folder / f"{kind}-key.pem")
    return {"trust_domain": "example.org", "service": server.rpartition("/")[2], "cert_dir": str(folder)}


@pytest.fixture(scope="module")
def machines(start_shared_charon: StartCharon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("certificates")
    ca = Authority()
    with two_hosts() as (a, b), b.run(lambda: ScriptedBackend(app)) as backend:
        here = certificates(folder / "b-web", ca, WEB, WEB)
        data = certificates(folder / "b-db", ca, DB, DB)
        web = start_shared_charon(
            {
                "services": {"app": {"addresses": [backend.address]}},
                "target_service_name": "app",
                "listeners": [
                    {"name": "web", "address": f"{b.ip}:0", "tls": {"enabled": True, **here}},
                    {
                        "name": "db",
                        "address": f"{b.ip}:0",
                        "protocol": "tcp",
                        "tls": {"enabled": True, "allowed_identities": [SHOP], **data},
                    },
                ],
            },
            prefix=b.prefix,
        )
        shop = start_shared_charon(
            {
                "tls": certificates(folder / "a", ca, SHOP, SHOP) | {"upstream_tls": True},
                "services": {name: {"addresses": [web.address(name)]} for name in ("web", "db")},
                "listeners": [
                    {"name": "web", "address": "127.0.0.1:0", "target_service_name": "web"},
                    {"name": "db", "address": "127.0.0.1:0", "protocol": "tcp", "target_service_name": "db"},
                    {"name": "wrong", "address": "127.0.0.1:0", "target_service_name": "web-that-is-db"},
                ],
            }
            | {"registry_file": "registry.yaml"},
            {"web-that-is-db": web.address("db")},
            prefix=a.prefix,
        )
        yield Machines(a, b, shop, web, backend)


def test_http(machines: Machines) -> None:
    with machines.client("web") as client:
        for _ in range(3):
            answer = client.get("/hello")
            assert answer.status == 200
            assert b"GET /hello HTTP/1.1\r\n" in answer.body
            assert f"X-Forwarded-Client-Cert: By={WEB};Hash=".encode() in answer.body
            assert f";URI={SHOP}\r\n".encode() in answer.body
        answer = client.post("/upload", b"x" * 100)
        assert answer.status == 200
    line = machines.web.wait_for_event("http_request", path="/upload")
    assert (line["identity"], line["client"]) == (SHOP, machines.a.ip)


def test_websocket(machines: Machines) -> None:
    with machines.client("web") as client:
        client.request("GET /chat", "Connection: Upgrade", "Upgrade: websocket")
        assert client.read_head().status == 101
        for size in (1, 1000, 100_000):
            client.send(b"m" * size)
            assert client.recv_exactly(size) == b"m" * size
        client.half_close()
        assert client.ended()
    machines.web.wait_for_event("http_request", path="/chat", status=101, identity=SHOP)


def test_tcp(machines: Machines) -> None:
    with machines.client("db") as client:
        client.send(b"HELLO" + bytes(300_000))
        assert client.recv_exactly(300_005) == b"HELLO" + bytes(300_000)
        client.half_close()
        assert client.read_until_close() == b""
    for charon in (machines.shop, machines.web):
        line = charon.wait_for_event("tcp_connection", listener="db")
        assert (line["bytes_in"], line["bytes_out"], line.get("reason")) == (300_005, 300_005, None)
    assert machines.web.wait_for_event("tcp_connection", listener="db")["identity"] == SHOP


def test_nothing_gets_in_beside_it(machines: Machines) -> None:
    """On the cable there is TLS with a certificate, or nothing."""
    for listener in ("web", "db"):
        host, _, port = machines.web.address(listener).rpartition(":")
        with machines.a.run(partial(socket.create_connection, (host, int(port)), PATIENCE)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200" not in b"".join(iter(lambda: plain.recv(1000), b""))
        machines.web.wait_for_event("tls_handshake_failed", listener=listener, reason="plaintext_client")


def test_a_service_is_who_it_says_and_not_just_any_member(machines: Machines) -> None:
    with machines.client("wrong") as client:
        assert client.get("/").error == "upstream_identity"
