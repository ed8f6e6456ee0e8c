"""Certificates of a running Charon: made at start, read again, told of, and what keeps it from starting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.charon import CharonProcess, sample
from tests.identity.support import openssl

NOT_AFTER = "charon_certificate_not_after_seconds"


def secure(**tls: Any) -> dict[str, Any]:
    return {"listen_port": 0, "target_service_addr": "127.0.0.1:9", "tls": {"enabled": True, "server_port": 0, **tls}}


def certificates(charon: CharonProcess) -> list[dict[str, Any]]:
    status, body = charon.admin("/api/status")
    assert status == 200
    found: list[dict[str, Any]] = json.loads(body)["certificates"]
    return found


def test_certificates_of_a_running_charon(start_charon: StartCharon) -> None:
    charon = start_charon(secure(cert_dir="c", service="web", upstream_tls=True))
    folder = charon.folder / "c"
    start = charon.wait_for_event("http_server_start")
    assert start["tls"] is True and charon.port() > 0, "the address that is really bound, not listen_port"
    issued = {Path(line["file"]).name for line in charon.log_lines("certificate_issued")}
    assert issued == {"ca-cert.pem", "server-cert.pem", "client-cert.pem"}
    for name in ("server-cert.pem", "client-cert.pem"):
        assert openssl("verify", "-CAfile", str(folder / "ca-cert.pem"), str(folder / name)).endswith("OK\n")
    (server, root, client) = certificates(charon)
    assert (server["identity"], client["identity"]) == ("spiffe://charon.local/web", "spiffe://charon.local/web")
    assert 0.9 < server["days_left"] < 1.1 and root["days_left"] > 3600
    assert sample(charon.metrics(), NOT_AFTER, file=server["file"]) == server["not_after"]
    assert "certificates" in json.loads(charon.admin("/api/greenlets")[1])["supervisor"]

    subprocess.run([sys.executable, "-m", "charon", "certs", "rotate", "--dir", str(folder)], check=True, timeout=20)
    for name in ("server-cert.pem", "client-cert.pem"):
        charon.wait_for_event("certificate_renewed", file=str(folder / name), why="the files changed")
    assert certificates(charon)[0]["serial"] != server["serial"]
    generation = json.loads(charon.admin("/api/status")[1])["generation"]
    assert generation > 1, "the workers have them"

    # A reload whose certificates cannot be had changes nothing.
    key = folder / "server-key.pem"
    key.chmod(0o644)
    charon.write_config(secure(cert_dir="c", service="web", dns_names=["a.example.com"]))
    charon.signal(signal.SIGHUP)
    refused = charon.wait_for_event("config_reload_failed")
    assert f"{key}: others may read or change this key" in refused["problems"][0]
    key.chmod(0o600)
    charon.signal(signal.SIGHUP)
    charon.wait_for_event("config_reloaded")
    (renewed,) = charon.wait_for_events("certificate_renewed", 1, why="it is not for a.example.com")
    assert renewed["file"] == str(folder / "server-cert.pem")
    assert "a.example.com" in certificates(charon)[0]["names"]
    files = [Path(one["file"]).name for one in certificates(charon)]
    assert files == ["server-cert.pem", "ca-cert.pem", "client-cert.pem"]
    assert (folder / "client-key.pem").exists(), "all six files of the short form are there"


@pytest.mark.parametrize(
    ("prepare", "tls", "code", "words"),
    [
        ("", {"cert_dir": "c", "enabled": False, "upstream_tls": True}, 1, "tls.upstream_tls: there is nothing to"),
        ("", {"ca_file": "no.pem"}, 1, "tls.ca_file: there is no such file"),
        ("certs/ca-key.pem", {}, 3, "certs/ca-key.pem: others may read or change this key (mode 0644); chmod 600"),
        ("certs", {}, 3, "certs: the folder cannot be made: "),
        ("certs/ca-cert.pem", {}, 3, "certs/server-cert.pem: there is no such file, and no ca-key.pem in"),
    ],
    ids=["nothing to trust", "no such file", "exposed key", "no folder", "no key of the authority"],
)
def test_what_keeps_charon_from_starting(
    make_charon: StartCharon, prepare: str, tls: dict[str, Any], code: int, words: str
) -> None:
    charon = make_charon(secure(**tls))
    if prepare:
        path = charon.folder / prepare
        path.parent.mkdir(exist_ok=True)
        path.write_text("nothing")
        path.chmod(0o644)
    charon.start(wait=False)
    assert charon.wait() == code
    (line,) = charon.stderr().splitlines()
    assert words in line
    if code == 3:
        assert words in charon.log_lines("start_failed")[0]["error"]
