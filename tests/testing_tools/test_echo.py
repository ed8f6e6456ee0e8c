"""The echo server and the clients that talk to it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading

import pytest

from charon.testing.smoke_client import unescape
from tests.testing_tools.conftest import Running, Start


@pytest.fixture(scope="module")
def echo(start: Start) -> Running:
    return start("echo_server", "--host", "127.0.0.1", "--port", "0")


def run(module: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"charon.testing.{module}", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)


def answering_once(answer: bytes) -> int:
    """The port of a server that sends ``answer`` to its first client, whatever it says, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_server_sends_back_every_byte_and_then_the_end(echo: Running) -> None:
    message = bytes(range(256)) * 1000
    with socket.create_connection((echo.host, echo.port), timeout=10) as connection:
        writer = threading.Thread(target=lambda: (connection.sendall(message), connection.shutdown(socket.SHUT_WR)))
        writer.start()
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
        writer.join()
    assert received == message


def test_the_server_outlives_a_client_that_resets(echo: Running) -> None:
    with socket.create_connection((echo.host, echo.port), timeout=10) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.sendall(b"never read")
    assert run("smoke_client", "--addr", f"127.0.0.1:{echo.port}").returncode == 0
    assert echo.process.poll() is None


def test_the_server_stops_cleanly_when_told(start: Start) -> None:
    process = start("echo_server", "--host", "127.0.0.1", "--port", "0").process
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def test_without_a_host_the_server_listens_on_every_interface(start: Start) -> None:
    everywhere = start("echo_server", "--port", "0")
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, everywhere.port), timeout=10) as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("plain", b"plain"),
        (r"hello\n", b"hello\n"),
        (r"\r\t\0\\n", b"\r\t\0\\n"),
        (r"\x00\xff", b"\x00\xff"),
        (r"\q stays", rb"\q stays"),
        ("naïve", "naïve".encode()),
    ],
)
def test_escapes_are_read_as_in_c(text: str, data: bytes) -> None:
    assert unescape(text) == data


def test_smoke_passes_when_the_echo_is_the_message(echo: Running) -> None:
    done = run("smoke_client", "--addr", f"127.0.0.1:{echo.port}", "--msg", r"hello\n")
    assert (done.returncode, done.stdout) == (0, "echo ok: 6 bytes\n")


@pytest.mark.parametrize("answer", [b"", b"hel", b"jello"])
def test_smoke_fails_when_it_is_not(answer: bytes) -> None:
    done = run("smoke_client", "--addr", f"127.0.0.1:{answering_once(answer)}", "--msg", "hello")
    assert done.returncode == 1
    assert f"sent b'hello', got back {answer!r}" in done.stderr


@pytest.mark.parametrize("client", ["smoke_client", "interactive_client"])
def test_nobody_there_is_one_clear_line(client: str) -> None:
    done = run(client, "--addr", f"127.0.0.1:{closed_port()}")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("client", ["smoke_client", "interactive_client"])
def test_a_bad_address_is_a_usage_error(client: str) -> None:
    done = run(client, "--addr", "localhost")
    assert done.returncode == 2
    assert "is not an address" in done.stderr


def test_interactive_shows_what_comes_back_until_the_input_ends(echo: Running) -> None:
    done = run("interactive_client", "--addr", f"127.0.0.1:{echo.port}", text="one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


def test_interactive_answers_line_by_line(echo: Running) -> None:
    command = [sys.executable, "-m", "charon.testing.interactive_client", "--addr", f"127.0.0.1:{echo.port}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for line in ("first\n", "second\n"):
            client.stdin.write(line)
            assert client.stdout.readline() == line
        client.stdin.close()
        assert client.wait(timeout=10) == 0


def test_interactive_takes_more_than_the_buffers_hold(echo: Running, tmp_path: object) -> None:
    command = [sys.executable, "-m", "charon.testing.interactive_client", "--addr", f"127.0.0.1:{echo.port}"]
    with open(f"{tmp_path}/lines", "w+", encoding="utf-8") as lines:
        lines.write("x" * 3_000_000)
        lines.seek(0)
        done = subprocess.run(command, stdin=lines, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, len(done.stdout)) == (0, 3_000_000)


def test_interactive_says_so_when_the_other_side_ends_first() -> None:
    port = answering_once(b"bye\n")
    command = [sys.executable, "-m", "charon.testing.interactive_client", "--addr", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as client:
        assert client.stdin is not None
        client.stdin.write("hi\n")
        assert client.wait(timeout=10) == 1
        assert client.stdout is not None
        assert client.stdout.read() == "bye\n"
        assert client.stderr is not None
        assert "closed the connection" in client.stderr.read()
