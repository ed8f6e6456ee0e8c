"""Walk-through: an echo server behind a TCP proxy, tried with netcat and with the test clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Program, ScriptedBackend
from tests.harness.charon import CharonProcess
from tests.walkthroughs.support import shell, typed

CONFIG = """
listen_port: "0"
protocol: tcp
target_service_addr: "{address}"
workers: 1
"""


@pytest.fixture
def charon(start_charon: StartCharon, echo_server: Program) -> CharonProcess:
    return start_charon(CONFIG.format(address=f"localhost:{echo_server.port}"), command=())


@pytest.fixture
def shouting(start_charon: StartCharon) -> Iterator[CharonProcess]:
    """In front of a server whose echo is not one."""

    def shout(connection: Connection) -> None:
        while data := connection.recv():
            connection.send(data.upper())

    with ScriptedBackend(shout) as backend:
        yield start_charon(CONFIG.format(address=backend.address))


def test_netcat(charon: CharonProcess) -> None:
    assert typed(f"printf 'hello\\nagain\\n' | nc -N localhost {charon.port()}") == "hello\nagain\n"
    assert charon.wait_for_event("tcp_connection")["bytes_in"] == 12


def test_smoke_client(charon: CharonProcess) -> None:
    said = typed(
        rf'python -m charon.testing.smoke_client --addr localhost:{charon.port()} --msg "hello-through-proxy\n"'
    )
    assert said == "echo ok: 20 bytes\n"


def test_smoke_client_when_the_echo_differs(shouting: CharonProcess) -> None:
    done = shell(f'python -m charon.testing.smoke_client --addr localhost:{shouting.port()} --msg "hello"')
    assert done.returncode == 1
    assert done.stderr == "smoke_client: sent b'hello', got back b'HELLO'\n"


def test_interactive_client(charon: CharonProcess) -> None:
    command = f"python -m charon.testing.interactive_client --addr localhost:{charon.port()}"
    assert typed(command, stdin="one line\nanother\n") == "one line\nanother\n"
