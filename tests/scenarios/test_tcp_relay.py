"""``protocol: tcp``: bytes pass both ways exactly, each direction ends by itself, and what passed is told."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Program, ScriptedBackend
from tests.harness.charon import CharonProcess, descriptors, sample, total
from tests.harness.client import RawClient

BULK = 100_000_000


@pytest.fixture(scope="module")
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For Unix sockets, whose paths are at most 107 bytes long."""
    folder = Path(f"/tmp/charon-test-{os.getpid()}-tcp")
    folder.mkdir()
    yield folder
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


@pytest.fixture(scope="module")
def unix_echo(short_folder: Path) -> Iterator[Path]:
    """An echo server on a Unix socket."""
    path = short_folder / "echo.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    while data := sock.recv(65_536):
                        sock.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(scope="module")
def charon(
    start_shared_charon: StartCharon,
    shared_backend: ScriptedBackend,
    echo_server: Program,
    unix_echo: Path,
    short_folder: Path,
) -> CharonProcess:
    listeners = {
        "echo": ("127.0.0.1:0", "echo"),
        "scripted": ("127.0.0.1:0", "scripted"),
        "v6": ("[::1]:0", "echo"),
        "every": (":0", "echo"),
        "unix": (f"unix:{short_folder}/listen.sock", "echo"),
        "to-unix": ("127.0.0.1:0", "unix-echo"),
    }
    return start_shared_charon(
        {
            "protocol": "tcp",
            "listeners": [
                {"name": name, "address": address, "target_service_name": service}
                for name, (address, service) in listeners.items()
            ],
        },
        {"echo": echo_server.address, "scripted": shared_backend.address, "unix-echo": f"unix:{unix_echo}"},
    )


def smoke(address: str, message: str = r"hello\n") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charon.testing.smoke_client", "--addr", address, "--msg", message]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def test_the_smoke_client_gets_its_echo(charon: CharonProcess) -> None:
    done = smoke(f"127.0.0.1:{charon.port('echo')}")
    assert (done.returncode, done.stdout) == (0, "echo ok: 6 bytes\n")


def test_the_smoke_client_fails_when_the_echo_differs(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def shout(connection: Connection) -> None:
        connection.send(connection.recv_exactly(6).upper())

    backend.script = shout
    done = smoke(f"127.0.0.1:{charon.port('scripted')}")
    assert done.returncode == 1
    assert "sent b'hello\\n', got back b'HELLO\\n'" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_bare_port_takes_both_families(charon: CharonProcess, host: str) -> None:
    with RawClient(charon.port("every"), host=host) as client:
        client.send(b"over either family")
        assert client.recv_exactly(18) == b"over either family"
        client.half_close()
        assert client.ended()
    charon.wait_for_event("tcp_connection", listener="every", client=host)


def test_ipv6_listener(charon: CharonProcess) -> None:
    assert charon.address("v6") == f"[::1]:{charon.port('v6')}"
    with RawClient(charon.port("v6"), host="::1") as client:
        client.send(b"six")
        assert client.recv_exactly(3) == b"six"


def test_unix_socket_listener(charon: CharonProcess, short_folder: Path) -> None:
    assert charon.address("unix") == f"unix:{short_folder}/listen.sock"
    with RawClient(f"{short_folder}/listen.sock") as client:
        client.send(b"local")
        assert client.recv_exactly(5) == b"local"
        client.half_close()
        assert client.ended()
    charon.wait_for_event("tcp_connection", listener="unix", client="unix", bytes_in=5, bytes_out=5)


def test_unix_socket_upstream(charon: CharonProcess, unix_echo: Path) -> None:
    with RawClient(charon.port("to-unix")) as client:
        client.send(b"local")
        assert client.recv_exactly(5) == b"local"
        client.half_close()
        assert client.ended()
    charon.wait_for_event("tcp_connection", listener="to-unix", upstream=f"unix:{unix_echo}")


def test_a_client_that_has_finished_still_gets_the_rest(charon: CharonProcess, backend: ScriptedBackend) -> None:
    rest = os.urandom(500_000)

    def answer_at_the_end(connection: Connection) -> None:
        assert connection.wait_for_end()
        connection.send(rest)

    backend.script = answer_at_the_end
    with RawClient(charon.port("scripted")) as client:
        client.send(b"the whole question")
        client.half_close()
        assert client.read_until_close() == rest
    assert backend.received() == b"the whole question"


def test_a_server_that_has_finished_still_gets_the_rest(charon: CharonProcess, backend: ScriptedBackend) -> None:
    heard = threading.Event()

    def finish_first(connection: Connection) -> None:
        connection.send(b"that is all")
        connection.half_close()
        assert connection.wait_for_end()
        heard.set()

    backend.script = finish_first
    with RawClient(charon.port("scripted")) as client:
        assert client.read_until_close() == b"that is all"
        client.send(bytes(500_000))
        client.half_close()
        assert heard.wait(10)
    assert len(backend.received()) == 500_000


def test_a_server_that_speaks_first_is_heard_at_once(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def greet(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        assert connection.recv_exactly(4) == b"QUIT"

    backend.script = greet
    with RawClient(charon.port("scripted")) as client:
        assert client.recv_until(b"\r\n") == b"220 ready\r\n"
        client.send(b"QUIT")
        assert client.ended()


def test_bulk_both_ways_at_once_is_byte_exact_and_small_messages_follow(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    block = os.urandom(1_000_003)  # not a divisor of anything
    blocks = BULK // len(block) + 1
    expected = hashlib.sha256()
    for _ in range(blocks):
        expected.update(block)

    def send_all(sock: socket.socket) -> None:
        for _ in range(blocks):
            sock.sendall(block)

    def digest(sock: socket.socket) -> str:
        seen, left = hashlib.sha256(), blocks * len(block)
        while left:
            data = sock.recv(min(left, 1 << 20))
            assert data, f"{left} bytes are missing"
            seen.update(data)
            left -= len(data)
        return seen.hexdigest()

    arrived: list[str] = []

    def both_ways(sock: socket.socket) -> None:
        sending = threading.Thread(target=send_all, args=(sock,), daemon=True)
        sending.start()
        arrived.append(digest(sock))
        sending.join()

    def serve(connection: Connection) -> None:
        both_ways(connection.sock)
        while data := connection.recv(100):
            connection.send(data)

    def pipes() -> int:
        return sum(target.startswith("pipe:") for target in descriptors(charon.worker_pids()[0]))

    backend.script = serve
    before = pipes()
    with RawClient(charon.port("scripted")) as client:
        both_ways(client.sock)
        assert pipes() > before, "the bulk was copied, not spliced"
        for number in range(100):
            message = b"message %d" % number
            client.send(message)
            assert client.recv_exactly(len(message)) == message
        client.half_close()
        assert client.ended()
    assert arrived == [expected.hexdigest()] * 2
    small = sum(len(b"message %d" % number) for number in range(100))
    passed = blocks * len(block) + small
    charon.wait_for_event("tcp_connection", listener="scripted", bytes_in=passed, bytes_out=passed)


def test_bulk_does_not_keep_other_connections_waiting(charon: CharonProcess, echo_server: Program) -> None:
    stop = threading.Event()

    def flood(client: RawClient) -> None:
        block = bytes(1 << 20)
        while not stop.is_set():
            client.send(block)
        client.half_close()

    with RawClient(charon.port("echo")) as bulk, RawClient(charon.port("echo")) as small:
        sending = threading.Thread(target=flood, args=(bulk,), daemon=True)
        sending.start()
        draining = threading.Thread(target=bulk.read_until_close, daemon=True)
        draining.start()
        for _ in range(50):  # the client's own patience bounds each of them
            small.send(b"ping")
            assert small.recv_exactly(4) == b"ping"
        stop.set()
        sending.join()
        draining.join()


def test_what_passed_is_in_the_log_and_in_the_metrics(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def exchange(connection: Connection) -> None:
        connection.recv_exactly(1000)
        connection.send(bytes(250))

    backend.script = exchange
    before, mark = charon.metrics(), charon.mark()
    with RawClient(charon.port("scripted")) as client:
        client.send(bytes(1000))
        assert client.recv_exactly(250) == bytes(250)
        assert client.ended()
    line = charon.wait_for_event("tcp_connection", since=mark, listener="scripted")
    assert line["duration_ms"] > 0
    assert {key: line[key] for key in line if key not in ("timestamp", "duration_ms")} == {
        "level": "info",
        "message": "tcp_connection",
        "listener": "scripted",
        "client": "127.0.0.1",
        "upstream": backend.address,
        "bytes_in": 1000,
        "bytes_out": 250,
    }
    after = charon.metrics()

    def grown(name: str, **labels: str) -> float:
        return sample(after, name, **labels) - sample(before, name, **labels)

    here = {"listener": "scripted", "upstream": backend.address}
    assert grown("charon_tcp_connections_total", outcome="ok", **here) == 1
    assert grown("charon_tcp_connection_duration_seconds_count", **here) == 1
    assert grown("charon_tcp_connection_duration_seconds_sum", **here) > 0
    assert grown("charon_listener_received_bytes_total", listener="scripted") == 1000
    assert grown("charon_listener_sent_bytes_total", listener="scripted") == 250
    assert grown("charon_listener_accepted_connections_total", listener="scripted") == 1
    assert sample(after, "charon_listener_connections", listener="scripted") == 0
    service = {"service": "scripted", "upstream": backend.address}
    assert grown("charon_upstream_connects_total", result="ok", **service) == 1
    assert grown("charon_upstream_connect_seconds_count", **service) == 1


def test_long_connections_are_counted_while_they_last(charon: CharonProcess) -> None:
    def received() -> float:
        return sample(charon.metrics(), "charon_listener_received_bytes_total", listener="echo")

    before = received()
    with RawClient(charon.port("echo")) as client:
        client.send(bytes(5000))
        client.recv_exactly(5000)
        assert received() - before == 5000
        assert total(charon.metrics(), "charon_listener_connections", listener="echo") == 1
