"""What makes the load, and what peers are started with."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from charon.config.load import load_config
from scripts.benchlib.charon_peers import Charon
from scripts.benchlib.openloop import END, OpenLoop
from scripts.benchlib.peer import Certificate, Setup
from scripts.benchlib.peers import PEERS

STALL = 0.05


class Stalling(threading.Thread):
    """A server of one connection that answers the first request at once, the second after ``STALL`` seconds, all
    others at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]

    def run(self) -> None:
        connection = self.listener.accept()[0]
        with connection:
            for number in range(1_000_000):
                if not connection.recv(4096):
                    return
                if number == 1:
                    threading.Event().wait(STALL)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + END)


@pytest.fixture
def stalling() -> Iterator[Stalling]:
    server = Stalling()
    server.start()
    yield server
    server.join(10)
    server.listener.close()
    assert not server.is_alive()


def test_what_is_due_while_an_answer_is_late_is_late_too(stalling: Stalling) -> None:
    generator = OpenLoop(stalling.port, connections=1)
    latencies, _late = generator.run(rate=1000, seconds=STALL)
    generator.close()
    assert len(latencies) == 50
    assert all(latency > STALL - number / 1000 - 1e-6 for number, latency in enumerate(latencies))


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if isinstance(peer, Charon)])
def test_charon_accepts_what_the_benchmark_configures(tmp_path: Path, name: str) -> None:
    Certificate.make(tmp_path)
    for mode in ("http", "https", "tcp", "original-destination"):
        folder = tmp_path / mode
        folder.mkdir()
        PEERS[name].command(Setup(mode, 8080, 9090, True, 500, folder))
        assert load_config(folder / "config.yaml", {}).workers == PEERS[name].workers
