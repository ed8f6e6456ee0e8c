"""TLS towards services: only to whom it should be, over connections that are kept, and followed when it changes."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.authority import Authority
from tests.harness.backends import Connection, ScriptedBackend
from tests.harness.charon import CharonProcess, sample, total
from tests.harness.client import Broken, RawClient
from tests.harness.tls import TlsServer, connect
from tests.harness.waiting import eventually

DAY = timedelta(days=1)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
TO_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
CA = Authority()


def _complain(connection: Connection) -> None:
    """As a server without TLS does."""
    connection.recv()
    connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


class Behind:
    """A TLS server for each way that it can go."""

    def __init__(self, stack: ExitStack, plain: ScriptedBackend) -> None:
        def serve(*uris: str, ca: Authority = CA, **how: Any) -> TlsServer:
            certificate = {key: how.pop(key) for key in ("hosts", "starts", "ends") if key in how}
            return stack.enter_context(TlsServer(ca.issue(*uris, **certificate), reply=how.pop("reply", OK), **how))

        self.plain = plain
        self.right = serve("spiffe://example.org/right")
        self.mutual = serve("spiffe://example.org/mutual", clients_of=CA)
        self.named = serve(hosts=["db.test"])
        self.other = serve("spiffe://example.org/other")
        self.misnamed = serve(hosts=["elsewhere.test"])
        self.stranger = serve("spiffe://example.org/stranger", ca=Authority("another"))
        self.expired = serve("spiffe://example.org/expired", starts=-3 * DAY, ends=-DAY)
        self.ended = serve("spiffe://example.org/ended", reply=TO_CLOSE, afterwards="close")
        self.cut = serve("spiffe://example.org/cut", reply=TO_CLOSE, afterwards="cut")


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    with ExitStack() as stack:
        plain = stack.enter_context(ScriptedBackend(_complain))
        yield Behind(stack, plain)


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, behind: Behind, tmp_path_factory: pytest.TempPathFactory) -> CharonProcess:
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "ca.pem").write_bytes(CA.pem)
    cert, key = CA.issue("spiffe://example.org/here").write(folder, "client")

    def service(server: TlsServer | ScriptedBackend, name: str, **tls: Any) -> dict[str, Any]:
        if not tls:
            tls = {"identities": [f"spiffe://example.org/{name}"]}
        return {"addresses": [server.address], "tls": {"enabled": True, "ca_file": str(folder / "ca.pem"), **tls}}

    mine = {"cert_file": cert, "key_file": key}
    names = ("right", "stranger", "expired", "ended", "cut")
    services = {
        **{name: service(getattr(behind, name), name) for name in names},
        "mutual": service(behind.mutual, "", identities=["spiffe://example.org/mutual"], **mine),
        "anonymous": service(behind.mutual, "", identities=["spiffe://example.org/mutual"]),
        "named": service(behind.named, "", server_name="db.test"),
        "other": service(behind.other, "", identities=["spiffe://example.org/right", "spiffe://example.org/third"]),
        "misnamed": service(behind.misnamed, "", server_name="db.test"),
        "plain": service(behind.plain, "plain"),
        "checked": {**service(behind.right, "right"), "health_check": {"enabled": True, "interval": "1s"}},
        "checked-wrong": {**service(behind.other, "right"), "health_check": {"enabled": True, "type": "http"}},
    }
    routes = [{"path_prefix": f"/{name}", "service": name} for name in services]
    tcp = {"name": "tcp", "address": "127.0.0.1:0", "protocol": "tcp", "target_service_name": "mutual"}
    wrong = {"name": "tcp-wrong", "address": "127.0.0.1:0", "protocol": "tcp", "target_service_name": "other"}
    listeners = [{"name": "web", "address": "127.0.0.1:0", "routes": routes}, tcp, wrong]
    config = {"services": services, "listeners": listeners, "retry": {"attempts": 0}}
    return start_shared_charon(config)


def test_connections_are_made_once_and_kept(charon: CharonProcess) -> None:
    def made() -> float:  # by requests: probes of another service come to the same server
        return total(charon.metrics(), "charon_upstream_connects_total", service="right")

    before = made()
    with RawClient(charon.port("web")) as client:
        for _ in range(5):
            client.request("GET /right")
            assert client.read_response().body == b"hello"
    assert made() == before + 1


@pytest.mark.parametrize("name", ["mutual", "named", "ended"])
def test_whom_it_should_be(charon: CharonProcess, name: str) -> None:
    with RawClient(charon.port("web")) as client:
        client.request(f"GET /{name}")
        assert (client.read_response().body, charon.log_lines("upstream_error")) == (b"hello", [])


@pytest.mark.parametrize(
    ("name", "reason", "word"),
    [
        ("other", "upstream_identity", "wrong_identity"),
        ("misnamed", "upstream_identity", "wrong_identity"),
        ("stranger", "upstream_tls_failed", "unknown_ca"),
        ("expired", "upstream_tls_failed", "expired"),
        ("plain", "upstream_tls_failed", ""),
        ("anonymous", "upstream_tls_failed", "does not accept us"),
    ],
)
def test_everybody_else_gets_nothing(charon: CharonProcess, behind: Behind, name: str, reason: str, word: str) -> None:
    since = charon.mark()
    with RawClient(charon.port("web")) as client:
        client.request(f"POST /{name}", body=b"secret")
        answer = client.read_response()
    assert (answer.status, answer.error) == (502, reason)
    line = charon.wait_for_event("upstream_error", since=since, service=name)
    assert line["reason"] == reason and word in line["error"]
    assert b"secret" not in behind.plain.received()


def test_a_body_that_ends_with_the_connection_is_whole_only_with_a_goodbye(charon: CharonProcess) -> None:
    with RawClient(charon.port("web")) as client:
        client.request("GET /ended")
        assert client.read_response().body == b"hello"
        client.request("GET /cut")
        with pytest.raises(Broken) as caught:
            client.read_response()
    assert caught.value.partial == b"hello"
    charon.wait_for_event("http_request", path="/cut", reason="upstream_truncated")


def test_a_relay_speaks_tls_on_one_side(charon: CharonProcess, behind: Behind) -> None:
    resumed = behind.mutual.resumed
    for _ in range(2):
        with RawClient(charon.port("tcp")) as client:
            client.send(b"anything")
            assert client.sock.recv(1000) == OK
    assert behind.mutual.resumed > resumed  # the second goes on where the first was
    with RawClient(charon.port("tcp-wrong")) as client, pytest.raises(ConnectionResetError):
        client.sock.recv(1)
    charon.wait_for_event("tcp_connection", listener="tcp-wrong", reason="upstream_identity")


def test_probes_look_at_the_identity_too(charon: CharonProcess, behind: Behind) -> None:
    def health(service: str, server: TlsServer) -> float | None:
        labels = frozenset({"service": service, "upstream": server.address}.items())
        return charon.metrics().get(("charon_upstream_health", labels))

    eventually(lambda: health("checked", behind.right) == 1)
    eventually(lambda: health("checked-wrong", behind.other) == 0)
    line = charon.wait_for_event("health_change", service="checked-wrong")
    assert "wrong_identity" in str(line)


def test_new_material_is_for_new_connections(start_charon: StartCharon, tmp_path: Path, behind: Behind) -> None:
    """A renewal on both sides: the listener shows the new certificate, upstreams are dialled anew, and an open
    connection does not notice."""
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    first, second = CA.issue("spiffe://example.org/here"), CA.issue("spiffe://example.org/here")
    cert, key = first.write(tmp_path, "here")
    mine = {"cert_file": cert, "key_file": key, "ca_file": str(tmp_path / "ca.pem")}
    charon = start_charon(
        {
            "services": {"mutual": {"addresses": [behind.mutual.address], "tls": {"enabled": True, **mine}}},
            "tls": {"enabled": True, "client_auth": "none", "cert_file": cert, "key_file": key},
            "listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_name": "mutual"}],
        }
    )
    before, resumed = behind.mutual.connections, behind.mutual.resumed

    def ask(client: ssl.SSLSocket) -> bytes:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while not answer.endswith(b"hello"):
            answer += client.recv(1000)
        return answer

    def serial(client: ssl.SSLSocket) -> int:
        certificate = client.getpeercert()
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)

    def shown() -> int:
        with connect(charon.port(), CA.pem) as client:
            return serial(client)

    with connect(charon.port(), CA.pem) as old:
        assert serial(old) == first.serial
        ask(old)
        ask(old)
        assert behind.mutual.connections == before + 1
        Path(key).write_bytes(second.key)
        Path(cert).write_bytes(second.cert)
        eventually(lambda: shown() == second.serial)
        ask(old)
        assert behind.mutual.connections == before + 2  # not the one that had the old certificate
        assert behind.mutual.resumed == resumed  # nor a session of its time
    assert sample(charon.metrics(), "charon_tls_handshakes_total", listener="web", result="unknown_ca") == 0
