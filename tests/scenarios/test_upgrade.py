"""Upgrade in place: the program is started anew on the same sockets, and the old one drains. Nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient
from tests.harness.waiting import alive, eventually


def config(address: str, **settings: Any) -> dict[str, Any]:
    web = {"name": "web", "address": "127.0.0.1:0", "target_service_addr": address}
    return {"listeners": [web], **settings}


def status(charon: CharonProcess) -> dict[str, Any]:
    code, body = charon.admin("/api/status")
    assert code == 200
    state: dict[str, Any] = json.loads(body)
    return state


class Load:
    """Clients that ask one thing after the other: half on a connection for each, half as long as one is kept open."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._port = port
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(clients)]

    def _ask(self, keep: bool) -> None:
        while not self._enough.is_set():
            try:
                with RawClient(self._port) as client:
                    self._use(client, keep)
            except Exception as error:  # noqa: BLE001 - every failure counts
                self.failures.append(repr(error))

    def _use(self, client: RawClient, keep: bool) -> None:
        while not self._enough.is_set():
            answer = client.get("/") if keep else client.get("/", "Connection: close")
            assert answer.status == 200, answer
            self.answered += 1
            if not keep or (answer.get("Connection") or "") == "close":
                return

    def more(self, count: int) -> None:
        """Wait for so many further answers."""
        wanted = self.answered + count
        eventually(lambda: self.answered >= wanted or self.failures)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def load_on(charon: CharonProcess) -> Iterator[Load]:
    with Load(charon.port()) as load:
        load.more(20)
        yield load
        load.more(20)
    assert load.failures == []


@pytest.mark.slow
def test_no_request_fails_over_upgrades_whatever_the_number_of_workers(
    start_charon: StartCharon, http_backend: Program
) -> None:
    charon = start_charon(config(http_backend.address), workers=2)
    first = charon.pid
    with load_on(charon) as load:
        for workers in (3, 1):  # more sockets than before, then more sockets than workers
            before = charon.worker_pids()
            charon.write_config(config(http_backend.address, workers=workers))
            second = charon.upgrade()
            load.more(50)
            eventually(lambda before=before: not any(alive(pid) for pid in before))
            assert status(charon)["pid"] == second != first
            assert len(status(charon)["workers"]) == workers
            assert status(charon)["ready"] is True
    assert charon.admin_socket.exists()
    with RawClient(charon.port()) as client:
        assert client.get().status == 200


def test_long_connections_finish_in_the_old_program(start_charon: StartCharon, echo_server: Program) -> None:
    charon = start_charon(config(echo_server.address, protocol="tcp", drain_timeout="30s"))
    old = charon.pid
    assert old is not None
    with RawClient(charon.port()) as long, RawClient(charon.port()) as new:
        long.send(b"before")
        assert long.recv_exactly(6) == b"before"
        new.close()
        charon.upgrade()
        eventually(lambda: status(charon)["predecessor"] == {"pid": old, "connections": 1})
        with RawClient(charon.port()) as later:
            later.send(b"later")
            assert later.recv_exactly(5) == b"later"
        long.send(b"after")
        assert long.recv_exactly(5) == b"after"
    eventually(lambda: status(charon)["predecessor"] is None)
    assert not alive(old) or charon.wait() == 0


def test_a_program_that_does_not_start_changes_nothing(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(config(http_backend.address))
    (worker,) = charon.worker_pids()
    charon.write_config("nonsense: true\n")
    charon.signal(signal.SIGUSR2)
    failed = charon.wait_for_event("upgrade_failed")
    assert "exit code 1" in failed["problem"]
    assert "config.yaml:1: nonsense: unknown key" in charon.stderr()
    assert alive(worker) and charon.worker_pids() == [worker]
    state = status(charon)
    assert (state["ready"], state["last_upgrade"]["ok"], state["pid"]) == (True, False, charon.pid)
    with RawClient(charon.port()) as client:
        assert client.get().status == 200
    charon.write_config(config(http_backend.address))
    charon.upgrade()
    with RawClient(charon.port()) as client:
        assert client.get().status == 200


def test_a_launcher_says_which_version_takes_over(
    start_charon: StartCharon, http_backend: Program, tmp_path: Path
) -> None:
    """Where versions live side by side, the next one is not in the folder that this one runs from."""
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\nexport LAUNCHED=yes\nexec {sys.executable} -P -m charon "$@"\n')
    launcher.chmod(0o755)
    charon = start_charon(config(http_backend.address), env={"CHARON_LAUNCHER": str(launcher)})
    before = charon.pid
    assert b"LAUNCHED=yes" not in Path(f"/proc/{before}/environ").read_bytes()
    after = charon.upgrade()
    assert b"LAUNCHED=yes" in Path(f"/proc/{after}/environ").read_bytes()
    with RawClient(charon.port()) as client:
        assert client.get().status == 200


def test_a_stop_during_an_upgrade_stops_both(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(config(http_backend.address))
    charon.signal(signal.SIGUSR2)
    successor = charon.wait_for_event("upgrade_started")["successor"]
    assert charon.stop() == 0  # it returns when nobody holds its standard output any more
    assert not os.path.exists(f"/proc/{successor}")
    assert charon.log_lines("upgrade_failed")[0]["problem"] == "Charon was told to stop meanwhile"


def test_the_admin_address_is_handed_on_too(start_charon: StartCharon, http_backend: Program) -> None:
    """Only one of the two programs can listen there: the new one does, once the old one has let go."""
    charon = start_charon(config(http_backend.address, admin={"address": "127.0.0.1:0"}))
    address = charon.log_lines("admin_started")[-1]["address"]
    charon.write_config(config(http_backend.address, admin={"address": address}))
    since = len(charon.log_lines())
    charon.upgrade()
    assert charon.wait_for_event("admin_started", since=since)["address"] == address
    with RawClient(int(address.rpartition(":")[2])) as client:
        assert client.get("/readyz").status == 200
        assert client.get("/api/status").status == 401, "there is no token"
