"""Under a service manager: what it is told (sd_notify(3)), and the sockets that it hands in and keeps."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.client import RawClient
from tests.harness.waiting import eventually


class Manager:
    """What systemd is to a service: a datagram socket, and the descriptors that came over it."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self.said: list[dict[str, str]] = []
        self.stored: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 65_536, 250)
            if not data:
                return
            message = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.said.append(message)
            self.stored += [(message["FDNAME"], fd) for fd in fds]

    def heard(self, **assignments: str) -> list[dict[str, str]]:
        """All messages that make these assignments, once there is one."""
        return eventually(lambda: [said for said in self.said if assignments.items() <= said.items()])

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.environment["NOTIFY_SOCKET"])
        self._thread.join()
        self._socket.close()
        for _, fd in self.stored:
            os.close(fd)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def config(address: str, port: int = 0, **settings: Any) -> dict[str, Any]:
    web = {"name": "web", "address": f"127.0.0.1:{port}", "target_service_addr": address}
    return {"listeners": [web], **settings}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_the_manager_is_told_how_things_stand(
    start_charon: StartCharon, http_backend: Program, manager: Manager
) -> None:
    environment = manager.environment | {"WATCHDOG_USEC": "600000"}
    charon = start_charon(config(http_backend.address), workers=2, env=environment)
    assert manager.heard(READY="1")[0]["STATUS"] == "serving; listeners: 1, workers: 2"
    assert eventually(lambda: len(manager.heard(WATCHDOG="1")) > 2)
    charon.signal(signal.SIGHUP)
    assert int(manager.heard(RELOADING="1")[0]["MONOTONIC_USEC"]) > 0
    eventually(lambda: len(manager.heard(READY="1")) == 2)
    charon.write_config("nonsense: true\n")
    charon.signal(signal.SIGHUP)
    eventually(lambda: len(manager.heard(READY="1")) == 3)
    assert "the last reload was refused: " in manager.heard(READY="1")[2]["STATUS"]
    charon.write_config(config(http_backend.address))
    successor = charon.upgrade()
    assert manager.heard(MAINPID=str(successor))
    assert eventually(lambda: len(manager.heard(READY="1")) == 4), "the new program speaks for the service"
    before = len(manager.said)
    charon.end()
    assert int(manager.heard(STOPPING="1")[0]["EXTEND_TIMEOUT_USEC"]) > 2_000_000
    assert not [said for said in manager.said[before:] if "READY" in said]


@pytest.mark.slow
def test_over_a_restart_the_manager_keeps_the_queue(
    make_charon: StartCharon, http_backend: Program, manager: Manager
) -> None:
    port = free_port()
    settings = config(http_backend.address, port)
    first = make_charon(settings, workers=2, env=manager.environment)
    first.start()
    eventually(lambda: len(manager.stored) == 2)
    assert {name for name, _ in manager.stored} == {f"127.0.0.1%3A{port}"}
    assert first.stop() == 0
    with RawClient(port) as queued:  # nobody runs, and yet it is not refused
        queued.request("GET /")
        second = make_charon(settings, workers=2, sockets=manager.stored)
        second.start()
        assert queued.read_response().status == 200
        assert second.stop() == 0


def test_a_socket_that_comes_from_outside_is_shared_by_all_workers(
    make_charon: StartCharon, http_backend: Program
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as other:
        port = web.getsockname()[1]
        unwanted = other.getsockname()[1]
        charon = make_charon(
            config(http_backend.address, port),
            workers=2,
            sockets=[("web.socket", web.fileno()), ("other.socket", other.fileno())],
        )
        charon.start()
        assert charon.log_lines("sockets_not_wanted")[0]["address"] == f"127.0.0.1:{unwanted}"
        for _ in range(10):
            with RawClient(port) as client:
                assert client.get("/", "Connection: close").status == 200
        assert charon.stop() == 0
