"""Secrets that Charon is given, or that pass through it, show up nowhere: not in the log, on standard error, in the
admin API, in what the commands print, nor on a command line that other users can see. However much goes wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from charon.cli.main import main as command
from tests.conftest import StartCharon
from tests.harness.authority import Authority, Leaf
from tests.harness.backends import ScriptedBackend, http_response, refused_address
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient


def made_up(*names: str) -> dict[str, str]:
    return {name: f"s3cr3t-{name}-0123456789" for name in names}


CONFIGURED = made_up(
    "read-token", "write-token", "otlp-header", "otlp-url", "jaeger-url", "route-set", "route-match", "environment"
)
SENT = made_up("authorization", "cookie", "query", "body", "answer")
GETS = (
    "/livez", "/readyz", "/metrics", "/api/status?history=60", "/api/services", "/api/listeners", "/api/workers",
    "/api/certificates", "/api/config", "/api/problems", "/api/greenlets", "/api/intercept", "/api/openapi.json",
)  # fmt: skip


_FIELD = "routes: [{path_prefix: /, service: app, request_headers: {set: {Authorization: %s}}}]"
MISTAKES = [
    text.replace("SECRET", CONFIGURED[name])
    for text, name in (
        ("tracing: {otlp_headers: {X-Scope: [SECRET]}}", "otlp-header"),
        ("tracing: {otlp_headers: SECRET}", "otlp-header"),
        ("tracing: {otlp_headers: {X-Scope: 'SECRET'}", "otlp-header"),  # no closing brace
        ("tracing: {otlp_endpoint: 'http://user:SECRET@host/'}", "otlp-url"),
        ("tracing: {jaeger_endpoint: 'http://SECRET@host/'}", "jaeger-url"),
        ("target_service_addr: 'http://user:SECRET@host:80'", "otlp-url"),
        (_FIELD % "['SECRET']", "route-set"),
        (_FIELD % '"SECRET\\n"', "route-set"),
        (_FIELD % '"${CHARON_SECRET}\\n"', "environment"),
    )
]
"""Files of which something is wrong just where a secret stands."""


def secrets_of(leaf: Leaf) -> list[str]:
    """Lines of a key that name nobody else's."""
    return [line for line in leaf.key.decode().splitlines() if "-----" not in line]


def write_private(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def config(folder: Path, leaf: Leaf, authority: Authority) -> dict[str, Any]:
    cert, key = leaf.write(folder, "charon")
    (folder / "ca.pem").write_bytes(authority.pem)
    collector = refused_address()
    secret = CONFIGURED
    fields = {"Authorization": f"Bearer {secret['route-set']}", "X-Token": "${CHARON_SECRET}"}
    routes = [
        {"path_prefix": "/down", "service": "down"},
        {"path_prefix": "/key", "service": "app", "headers": {"X-Api-Key": secret["route-match"]}},
        {"path_prefix": "/", "service": "app", "request_headers": {"set": fields}},
    ]
    files = {"cert_file": cert, "key_file": key, "ca_file": str(folder / "ca.pem")}
    return {
        "admin": {
            "address": "127.0.0.1:0",
            "read_token_file": write_private(folder / "read", secret["read-token"]),
            "write_token_file": write_private(folder / "write", secret["write-token"]),
        },
        "tracing": {
            "enabled": True,
            "otlp_endpoint": f"http://{collector}/v1/traces",
            "jaeger_endpoint": f"http://{collector}/api/traces",
            "otlp_headers": {"X-Scope": secret["otlp-header"]},
        },
        "listeners": [
            {"name": "web", "address": "127.0.0.1:0", "routes": routes},
            {"name": "secure", "address": "127.0.0.1:0", "routes": routes, "tls": {"enabled": True, **files}},
        ],
    }


def everything(charon: CharonProcess, said: str) -> str:
    """All that anybody can see of it; ``said`` is what commands have printed."""
    pages = "".join(f"{path}: {charon.admin(path)[1].decode()}" for path in GETS)
    lines = "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in (charon.pid, *charon.worker_pids()))
    return "\n".join([*charon.raw_log(), charon.stderr(), pages, lines, said])


def use(charon: CharonProcess) -> None:
    """Requests that go well, fail, and are refused, all with secrets in them."""
    fields = (f"Authorization: Basic {SENT['authorization']}", f"Cookie: session={SENT['cookie']}")
    for path in ("/", "/down", "/key"):
        with RawClient(charon.port("web")) as client:
            client.get(f"{path}?token={SENT['query']}", *fields)
    for bad in ("Content-Length: +5", "A\0: b", "Transfer-Encoding: chunked, gzip"):
        with RawClient(charon.port("web")) as client:
            client.send(f"POST /?t={SENT['query']} HTTP/1.1\r\nHost: a\r\n{fields[0]}\r\n{bad}\r\n\r\n{SENT['body']}")
            assert client.read_response().error
    with RawClient(charon.port("web")) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{SENT['body']}")
        client.half_close()
        assert client.read_response().error
    with RawClient(charon.port("secure")) as client:
        client.send(f"GET /?token={SENT['query']} HTTP/1.1\r\n{fields[0]}\r\n\r\n")  # no TLS
        client.recv()


@pytest.mark.slow
def test_no_secret_is_ever_shown(
    start_charon: StartCharon,
    backend: ScriptedBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CHARON_SECRET", CONFIGURED["environment"])
    backend.serve(http_response(200, SENT["answer"].encode(), f"Set-Cookie: s={SENT['answer']}"))
    authority = Authority()
    leaf = authority.issue("spiffe://example.org/charon")
    good = config(tmp_path, leaf, authority)
    registry = {"app": backend.address, "down": refused_address()}
    charon = start_charon(good, registry)
    file = ("--config", str(charon.config_path))
    use(charon)
    assert CONFIGURED["route-set"] in str(backend.requests), "it is used, though"
    assert CONFIGURED["environment"] in str(backend.requests)
    for words in (["check"], ["status", "--json"], ["status"]):
        assert command([*words, *file]) == 0
    charon.wait_for_event("tracing_export_failed")
    for wrong in MISTAKES:
        since = len(charon.log_lines())
        charon.write_config(wrong + "\n")
        charon.signal(signal.SIGHUP)
        charon.wait_for_event("config_reload_failed", since=since)
        assert command(["check", *file]) == 1
    # A key that is none: what stands in the file is as secret as if it were one.
    charon.write_config(good)
    write_private(tmp_path / "charon-key.pem", leaf.key.decode()[:150])
    write_private(tmp_path / "read", CONFIGURED["read-token"][:12])  # too short
    assert command(["check", *file]) == 1
    charon.wait_for_event("certificate_failed")
    # A worker that ends as badly as it can, and one that hangs until its stack is written down.
    os.kill(charon.worker_pids()[0], signal.SIGABRT)
    died = charon.wait_for_event("worker_died")
    charon.wait_for_event("worker_started", since=charon.log_lines().index(died))
    use(charon)

    seen = everything(charon, "".join(capsys.readouterr()))
    for secret in (*CONFIGURED.values(), *SENT.values(), *secrets_of(leaf)):
        assert secret not in seen, [line for line in seen.splitlines() if secret in line]
