"""What a shell can ask of a running Charon, and tell it: status, reload, drain, log-level."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually


def charon_says(charon: CharonProcess, *command: str) -> tuple[int, str, str]:
    """Exit code, output and complaints of one command."""
    done = subprocess.run(
        [sys.executable, "-m", "charon", *command, "--config", str(charon.config_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def config(backend: str, **settings: Any) -> dict[str, Any]:
    web = {"name": "web", "address": "127.0.0.1:0", "target_service_name": "shop"}
    return {"listeners": [web], "services": {"shop": {"addresses": [backend]}}, **settings}


@pytest.fixture
def charon(start_charon: StartCharon, http_backend: Program) -> CharonProcess:
    return start_charon(config(http_backend.address), workers=2)


def test_status_is_a_table_json_or_an_exit_code(charon: CharonProcess, http_backend: Program) -> None:
    with RawClient(charon.port()) as client:
        assert client.get().status == 200
        code, text, _ = charon_says(charon, "status")
    lines = text.splitlines()
    assert code == 0
    assert lines[0].startswith(f"charon 0.1.0  pid {charon.pid}  up ") and lines[0].endswith("  ready")
    assert lines[1] == "1 connections"
    rows = [line.split() for line in lines]
    assert ["web", "http", charon.address(), "1"] in [row[:4] for row in rows]
    assert ["shop", http_backend.address, "unknown", "closed"] in [row[:4] for row in rows]
    workers = [[str(slot), "pid", str(pid), "ready"] for slot, pid in enumerate(charon.worker_pids())]
    assert [line.split()[:4] for line in lines[-2:]] == workers
    state = json.loads(charon_says(charon, "status", "--json")[1])
    assert state["services"]["shop"][0]["endpoint"] == http_backend.address
    assert charon_says(charon, "status", "--ready") == (0, "ready\n", "")
    assert "housekeeping" in charon_says(charon, "status", "--greenlets")[1]


def test_reload_says_what_is_wrong_and_changes_nothing(charon: CharonProcess, http_backend: Program) -> None:
    digest = json.loads(charon_says(charon, "status", "--json")[1])["config_digest"]
    assert sample(charon.metrics(), "charon_config_info", digest=digest) == 1
    charon.write_config({**config(http_backend.address), "drain_timeout": "banana"})
    code, out, err = charon_says(charon, "reload")
    assert (code, out) == (1, "")
    assert err.startswith(f"{charon.config_path}:2: drain_timeout: 'banana' is not a duration")
    assert err.endswith("the configuration that was in force stays in force\n")
    state = json.loads(charon_says(charon, "status", "--json")[1])
    assert (state["config_digest"], state["last_reload"]["ok"]) == (digest, False)
    assert "last reload " in charon_says(charon, "status")[1]
    charon.write_config(config(http_backend.address, drain_timeout="3s"))
    assert charon_says(charon, "reload") == (0, "reloaded\n", "")
    changed = json.loads(charon_says(charon, "status", "--json")[1])
    assert changed["config_digest"] != digest and changed["last_reload"]["ok"]
    infos = {dict(labels)["digest"] for name, labels in charon.metrics() if name == "charon_config_info"}
    assert infos == {changed["config_digest"]}


def test_a_file_that_is_no_yaml_any_more_can_still_be_told_of(charon: CharonProcess) -> None:
    charon.config_path.write_text("listeners: [\n")
    code, _, err = charon_says(charon, "status")
    assert code == 1 and "write --socket PATH" in err
    code, _, err = charon_says(charon, "reload", "--socket", str(charon.admin_socket))
    assert code == 1 and f"{charon.config_path}:" in err


def test_drain_fails_readiness_first_and_then_ends(charon: CharonProcess) -> None:
    code, out, _ = charon_says(charon, "drain", "--delay", "60s")
    assert (code, out) == (0, "not ready from now on; stops accepting in 60 s\n")
    assert charon_says(charon, "status", "--ready") == (1, "not ready: draining\n", "")
    with RawClient(charon.port()) as client:
        assert client.get().status == 200, "it goes on serving"
    assert charon_says(charon, "drain", "--delay", "soon")[0] == 1
    charon.signal(signal.SIGTERM)
    assert charon.wait() == 0
    code, out, _ = charon_says(charon, "status", "--ready")
    assert code == 1 and out.startswith("not ready: no Charon is running")
    code, _, err = charon_says(charon, "status")
    assert code == 3 and err.startswith("charon: no Charon is running")


def test_the_log_level_changes_at_once_and_until_the_next_reload(charon: CharonProcess) -> None:
    assert charon_says(charon, "log-level", "error") == (0, "level is error\n", "")
    before = len(charon.log_lines("log_reopened"))
    charon.signal(signal.SIGUSR1)
    assert charon_says(charon, "reload")[0] == 0
    charon.signal(signal.SIGUSR1)
    charon.wait_for_event("config_reloaded")
    eventually(lambda: len(charon.log_lines("log_reopened")) == before + 1)


def test_a_changed_file_is_put_in_force_by_itself_where_that_is_asked_for(
    start_charon: StartCharon, http_backend: Program
) -> None:
    charon = start_charon(config(http_backend.address, reload_on_change=True))
    charon.write_config(config(http_backend.address, reload_on_change=True, drain_timeout="4s"))
    charon.wait_for_event("config_reloaded")
    charon.write_config("nonsense: true\n")
    assert "nonsense: unknown key" in charon.wait_for_event("config_reload_failed")["problems"][0]
    with RawClient(charon.port()) as client:
        assert client.get().status == 200
