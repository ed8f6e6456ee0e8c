"""One Charon with mTLS before it: who gets in, who does not and what the log says, and what upstreams are told."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.authority import Authority, Leaf
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess, sample
from tests.harness.tls import TlsServer, connect
from tests.harness.waiting import eventually

SHOP, ADMIN, STRANGER = (f"spiffe://example.org/{name}" for name in ("shop", "admin", "other/stranger"))
DAY = timedelta(days=1)


class Mesh:
    """Certificates, and where they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority()
        self.peers: dict[str, Leaf | None] = {
            "shop": self.ca.issue(SHOP, hosts=["shop.test"]),
            "admin": self.ca.issue(ADMIN),
            "stranger": self.ca.issue(STRANGER),
            "no_certificate": None,
            "unknown_ca": Authority("another").issue(SHOP),
            "expired": self.ca.issue(SHOP, starts=-3 * DAY, ends=-DAY),
            "not_yet_valid": self.ca.issue(SHOP, starts=DAY, ends=2 * DAY),
            "wrong_trust_domain": self.ca.issue("spiffe://example.com/shop"),
            "revoked": self.ca.issue(SHOP),
        }
        revoked = self.peers["revoked"]
        assert revoked is not None
        self.write("ca.pem", self.ca.pem)
        self.write("crl.pem", self.ca.revoke(revoked))
        self.server = self.ca.issue("spiffe://example.org/web").write(folder, "server")
        self.files = {name: leaf.write(folder, name) for name, leaf in self.peers.items() if leaf is not None}

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def tls(self, **more: Any) -> dict[str, Any]:
        cert, key = self.server
        ours = {"enabled": True, "cert_file": cert, "key_file": key, "trust_domain": "example.org"}
        return {**ours, "ca_file": str(self.folder / "ca.pem"), "crl_file": str(self.folder / "crl.pem"), **more}

    def curl(self, charon: CharonProcess, who: str, path: str = "/", *more: str, listener: str = "web") -> str:
        """What ``who`` gets."""
        port = charon.port(listener)
        command = ["curl", "-sS", "--max-time", str(PATIENCE), "--cacert", str(self.folder / "ca.pem"), *more]
        if who in self.files:
            command += ["--cert", self.files[who][0], "--key", self.files[who][1]]
        ran = subprocess.run([*command, f"https://localhost:{port}{path}"], capture_output=True, text=True, check=False)
        return ran.stdout if ran.returncode == 0 else f"curl: {ran.returncode}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture(scope="module")
def behind(mesh: Mesh) -> Iterator[TlsServer]:
    """A server whose TLS is passed through."""
    with TlsServer(mesh.ca.issue(hosts=["db.mesh.test"]), reply=b"passed through") as server:
        yield server


@pytest.fixture(scope="module")
def charon(
    start_shared_charon: StartCharon, mesh: Mesh, http_backend: Program, echo_server: Program, behind: TlsServer
) -> CharonProcess:
    routes = [
        {"path_prefix": "/admin", "service": "app", "access": {"allow": [ADMIN]}},
        {"path": "/moved", "redirect": {"path": "/new"}},
    ]
    return start_shared_charon(
        {
            "services": {
                "app": {"addresses": [http_backend.address]},
                "echo": {"addresses": [echo_server.address]},
                "behind": {"addresses": [behind.address]},
            },
            "target_service_name": "app",
            "listeners": [
                {
                    "name": "web",
                    "address": "127.0.0.1:0",
                    "routes": routes,
                    "tls": mesh.tls(allowed_identities=["spiffe://example.org/*"]),
                    "access": {"deny": ["spiffe://example.org/other/*"]},
                },
                {"name": "open", "address": "127.0.0.1:0", "tls": mesh.tls(client_auth="optional")},
                {
                    "name": "believing",
                    "address": "127.0.0.1:0",
                    "tls": mesh.tls(),
                    "trusted_proxies": ["127.0.0.0/8"],
                },
                {
                    "name": "echo",
                    "address": "127.0.0.1:0",
                    "protocol": "tcp",
                    "target_service_name": "echo",
                    "tls": mesh.tls(allowed_identities=[SHOP]),
                },
                {
                    "name": "hurried",
                    "address": "127.0.0.1:0",
                    "tls": mesh.tls(),
                    "timeouts": {"tls_handshake": "300ms"},
                },
                {
                    "name": "names",
                    "address": "127.0.0.1:0",
                    "protocol": "tcp",
                    "target_service_name": "echo",
                    "routes": [{"sni": "*.mesh.test", "service": "behind"}],
                },
                {
                    "name": "only-names",
                    "address": "127.0.0.1:0",
                    "protocol": "tcp",
                    "target_service_name": "none",
                    "routes": [{"sni": "db.mesh.test", "service": "behind"}],
                    "timeouts": {"tls_handshake": "300ms"},
                },
            ],
        }
    )


def test_a_member_gets_in_and_the_upstream_is_told_who_it_is(charon: CharonProcess, mesh: Mesh) -> None:
    since = charon.mark()
    answer = mesh.curl(charon, "shop", "/hello", "-H", "X-Forwarded-Client-Cert: URI=spiffe://example.org/admin")
    told = [line.strip() for line in answer.splitlines() if "Client-Cert" in line]
    digest = subprocess.run(
        ["openssl", "x509", "-in", mesh.files["shop"][0], "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    digest = digest.partition("=")[2].strip().replace(":", "").lower()
    assert told == [
        f"X-Forwarded-Client-Cert: By=spiffe://example.org/web;Hash={digest};URI={SHOP};DNS=shop.test",
    ]
    assert "X-Forwarded-Proto: https" in answer
    line = charon.wait_for_event("http_request", since=since, path="/hello")
    assert (line["identity"], line["status"], line["listener"]) == (SHOP, 200, "web")


def test_an_older_tls_works_as_well(charon: CharonProcess, mesh: Mesh) -> None:
    assert f"URI={SHOP}" in mesh.curl(charon, "shop", "/", "--tls-max", "1.2")


def test_what_a_trusted_proxy_says_of_its_client_is_continued(charon: CharonProcess, mesh: Mesh) -> None:
    answer = mesh.curl(charon, "shop", "/", "-H", "X-Forwarded-Client-Cert: Hash=1", listener="believing")
    assert "X-Forwarded-Client-Cert: Hash=1,By=spiffe://example.org/web;Hash=" in answer


def test_a_redirect_keeps_the_scheme(charon: CharonProcess, mesh: Mesh) -> None:
    answer = mesh.curl(charon, "shop", "/moved", "-o", "/dev/null", "-w", "%{redirect_url} %{http_version}")
    assert answer == f"https://localhost:{charon.port('web')}/new 1.1"


def handshakes(charon: CharonProcess, listener: str, result: str) -> float:
    return sample(charon.metrics(), "charon_tls_handshakes_total", listener=listener, result=result)


REFUSED = ["no_certificate", "unknown_ca", "expired", "not_yet_valid", "wrong_trust_domain", "revoked"]


@pytest.mark.parametrize("word", REFUSED)
def test_who_does_not_get_in(charon: CharonProcess, mesh: Mesh, word: str) -> None:
    since = charon.mark()
    assert mesh.curl(charon, word, "/refused").startswith("curl: ")
    line = charon.wait_for_event("tls_handshake_failed", since=since, listener="web")
    assert (line["reason"], line["client"]) == (word, "127.0.0.1"), line
    assert line["level"] == "warning"
    assert not [line for line in charon.log_lines("http_request") if line["path"] == "/refused"]
    assert handshakes(charon, "web", word) == 1


def test_openssl_sees_a_current_tls_and_is_resumed(charon: CharonProcess, mesh: Mesh, tmp_path: Path) -> None:
    cert, key = mesh.files["shop"]
    command = ["openssl", "s_client", "-connect", f"localhost:{charon.port('web')}", "-servername", "localhost"]
    command += ["-CAfile", str(mesh.folder / "ca.pem"), "-verify_return_error", "-verify_hostname", "localhost"]
    command += ["-cert", cert, "-key", key, "-alpn", "h2,http/1.1", "-ign_eof"]
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    session = str(tmp_path / "session")
    for how, seen in (("-sess_out", b"New, TLSv1.3"), ("-sess_in", b"Reused, TLSv1.3")):
        ran = subprocess.run([*command, how, session], input=request, capture_output=True, check=True, timeout=PATIENCE)
        assert seen in ran.stdout
        assert b"ALPN protocol: http/1.1" in ran.stdout
        assert b"Compression: NONE" in ran.stdout
        assert b"HTTP/1.1 200 OK" in ran.stdout
    assert handshakes(charon, "web", "resumed") == 1
    old = subprocess.run([*command, "-tls1_1"], input=request, capture_output=True, check=False, timeout=PATIENCE)
    assert old.returncode != 0 and b"200 OK" not in old.stdout


def test_plain_http_is_told_so_and_nothing_else_is(charon: CharonProcess) -> None:
    since = charon.mark()
    with socket.create_connection(("127.0.0.1", charon.port("web")), PATIENCE) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b"".join(iter(lambda: plain.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n") and b"X-Charon-Error: plaintext_client" in answer
    charon.wait_for_event("tls_handshake_failed", since=since, listener="web", reason="plaintext_client")
    for listener, sent in (("web", b"SSH-2.0-x\r\n"), ("echo", b"GET / HTTP/1.1\r\n\r\n")):
        with socket.create_connection(("127.0.0.1", charon.port(listener)), PATIENCE) as plain:
            plain.sendall(sent)
            assert plain.recv(1) == b""


def test_who_may_is_decided_for_the_listener_and_for_the_route(charon: CharonProcess, mesh: Mesh) -> None:
    since = charon.mark()
    code = ("-o", "/dev/null", "-w", "%{http_code}")
    assert mesh.curl(charon, "admin", "/admin", *code) == "200"
    assert mesh.curl(charon, "shop", "/admin/x", *code) == "403"
    assert mesh.curl(charon, "stranger", "/", *code) == "403"
    line = charon.wait_for_event("http_request", since=since, path="/admin/x")
    assert (line["reason"], line["identity"], line["route"]) == ("identity_denied", SHOP, "/admin")
    line = charon.wait_for_event("http_request", since=since, status=403, route="")
    assert (line["reason"], line["identity"], line["upstream"]) == ("identity_denied", STRANGER, "none")
    metrics = charon.metrics()
    for route in ("/admin", ""):
        assert sample(metrics, "charon_authorization_denied_total", listener="web", route=route) == 1


def test_a_certificate_may_be_optional_but_not_wrong(charon: CharonProcess, mesh: Mesh) -> None:
    assert "Client-Cert" not in mesh.curl(charon, "no_certificate", "/", listener="open")
    assert SHOP in mesh.curl(charon, "shop", "/", listener="open")
    assert mesh.curl(charon, "expired", "/", listener="open").startswith("curl: ")


def test_tcp_under_tls_knows_who_is_there(charon: CharonProcess, mesh: Mesh) -> None:
    since = charon.mark()
    body = bytes(range(256)) * 2000
    with connect(charon.port("echo"), mesh.ca.pem, mesh.peers["shop"]) as client:
        client.sendall(body)
        got = b""
        while len(got) < len(body):
            got += client.recv(65_536)
        assert got == body
        client.unwrap()
    line = charon.wait_for_event("tcp_connection", since=since, listener="echo")
    assert (line["identity"], line["bytes_in"], line["bytes_out"]) == (SHOP, len(body), len(body))
    assert "reason" not in line
    with connect(charon.port("echo"), mesh.ca.pem, mesh.peers["admin"]) as client, pytest.raises(OSError):
        client.recv(1)
    line = charon.wait_for_event("tcp_connection", since=since, reason="identity_denied")
    assert (line["identity"], line["upstream"]) == (ADMIN, "none")


def test_a_client_that_is_cut_off_does_not_pass_for_one_that_has_finished(charon: CharonProcess, mesh: Mesh) -> None:
    since = charon.mark()
    with connect(charon.port("echo"), mesh.ca.pem, mesh.peers["shop"]) as client:
        client.sendall(b"half")
        assert client.recv(10) == b"half"
    line = charon.wait_for_event("tcp_connection", since=since, listener="echo")
    assert line["reason"] == "client_abort"


def test_stalled_handshakes_hold_nobody_up_and_are_ended(charon: CharonProcess, mesh: Mesh) -> None:
    silent = [socket.create_connection(("127.0.0.1", charon.port("hurried")), PATIENCE) for _ in range(200)]
    for number, stalled in enumerate(silent):
        stalled.sendall((b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00")[number % 3])
    assert SHOP in mesh.curl(charon, "shop", "/", listener="hurried")
    for stalled in silent:
        assert stalled.recv(1) == b""
        stalled.close()
    eventually(lambda: handshakes(charon, "hurried", "timeout") == 200)
    charon.wait_for_event("tls_handshake_failed", listener="hurried", reason="timeout")
    told = [line for line in charon.log_lines("tls_handshake_failed") if line["listener"] == "hurried"]
    assert len(told) < 10, "once a second says as much as 200 lines"


def test_tls_is_passed_through_by_its_server_name(charon: CharonProcess, mesh: Mesh, behind: TlsServer) -> None:
    for listener in ("names", "only-names"):
        with connect(charon.port(listener), mesh.ca.pem, name="db.mesh.test") as client:
            client.sendall(b"x")
            assert client.recv(100) == b"passed through"
    with pytest.raises(ssl.SSLCertVerificationError):  # the certificate is the server's own, not Charon's
        connect(charon.port("names"), mesh.ca.pem, name="other.mesh.test")
    assert behind.names == ["db.mesh.test", "db.mesh.test", "other.mesh.test"]


def test_a_hello_in_small_pieces_arrives_as_it_was_sent(charon: CharonProcess, mesh: Mesh) -> None:
    context = ssl.create_default_context(cadata=mesh.ca.pem.decode())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="db.mesh.test")
    with socket.create_connection(("127.0.0.1", charon.port("names")), PATIENCE) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    plain.send(bytes([byte]))
                incoming.write(plain.recv(65_536))
        tls.write(b"x")
        plain.sendall(outgoing.read())
        while True:
            incoming.write(plain.recv(65_536))
            try:
                assert tls.read(100) == b"passed through"
                break
            except ssl.SSLWantReadError:
                pass  # a session ticket


def test_what_has_no_known_name_goes_to_the_default_or_nowhere(charon: CharonProcess, mesh: Mesh) -> None:
    since = charon.mark()
    with socket.create_connection(("127.0.0.1", charon.port("names")), PATIENCE) as plain:
        plain.sendall(b"no TLS at all")
        assert plain.recv(100) == b"no TLS at all"
    cases = {
        "no_route": b"no TLS at all",
        "bad_client_hello": b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        "request_timeout": b"\x16\x03",
    }
    for reason, sent in cases.items():
        with socket.create_connection(("127.0.0.1", charon.port("only-names")), PATIENCE) as plain:
            plain.sendall(sent)
            with pytest.raises(ConnectionResetError):
                plain.recv(1)
        charon.wait_for_event("tcp_connection", since=since, listener="only-names", reason=reason)
    with pytest.raises(OSError):
        connect(charon.port("only-names"), mesh.ca.pem, name="nobody.test")
