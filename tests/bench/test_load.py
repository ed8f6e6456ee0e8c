"""What makes the load, and what peers are started with."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from charon.config.load import load_config
from scripts.benchlib.bulk_workloads import Download1M, Upload1M
from scripts.benchlib.charon_peers import Charon
from scripts.benchlib.openloop import END, OpenLoop
from scripts.benchlib.peer import Certificate, Setup
from scripts.benchlib.peers import PEERS
from scripts.benchlib.procs import BenchError, load
from scripts.benchlib.sink import Server, Sink
from tests.bench.runs import OPTIONS

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


def test_uploads_go_to_the_sink_one_after_the_other(tmp_path: Path) -> None:
    work = Upload1M(OPTIONS, tmp_path)
    with Server(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(server.server_address) as connection:
            for _ in range(3):
                work.carry(connection)
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.recv(100) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"  # nothing was left over
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nxyz", "cut short by 999997 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", "unexpected answer"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "unexpected answer"),
    ],
)
def test_a_download_that_is_not_all_there_is_no_figure(tmp_path: Path, answer: bytes, why: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    with ours, theirs, pytest.raises(BenchError, match=why):
        Download1M(OPTIONS, tmp_path).carry(ours)


def test_load_that_failed_or_is_not_there_is_no_figure() -> None:
    good = [sys.executable, "-c", "print('done')"]
    assert load(good, good) == ["done\n", "done\n"]
    with pytest.raises(BenchError, match=r"ended with 1: .*too much"):
        load(good, [sys.executable, "-c", "raise SystemExit('too much')"])
    with pytest.raises(BenchError, match="no-such-program is not installed"):
        load(good, ["no-such-program"])
