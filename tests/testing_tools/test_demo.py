"""The demonstration of scripts/run, from its first line to Ctrl-C."""

from __future__ import annotations

import http.client
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, str(ROOT / "scripts/lib/demo.py")]
PORTS = (8080, 8081, 9091, 9092, 9093)


def free_offset() -> int:
    """An offset at which no port of the demo is in use."""
    for _ in range(100):
        offset = random.randrange(2_000, 22_000)
        with ExitStack() as stack:
            try:
                for port in PORTS:
                    stack.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            except OSError:
                continue
            return offset
    raise AssertionError("no free ports")


class Demo:
    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.registry = ROOT / ".run" / str(offset) / "registry.yaml"
        self.process = subprocess.Popen(
            [*DEMO, "--offset", str(offset)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []

    def read_until(self, words: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return
        tail = "\n".join(line.rstrip()[:200] for line in self.lines[-15:])
        raise AssertionError(f"{words!r} never came; the last lines were:\n{tail}")

    def read_to_the_end(self) -> None:
        """What is left of its output: nobody must leave a program waiting to be read."""
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def backend_of(self, path: str) -> str:
        """Which backend answers ``path`` through Charon."""
        client = http.client.HTTPConnection("127.0.0.1", 8080 + self.offset, timeout=10)
        client.request("GET", path)
        answer = client.getresponse().read().decode()
        client.close()
        return answer.splitlines()[0]


@pytest.fixture
def demo() -> Iterator[Demo]:
    running = Demo(free_offset())
    yield running
    running.process.kill()
    running.process.wait()
    shutil.rmtree(running.registry.parent, ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_follows_the_registry_and_stops(demo: Demo, number: signal.Signals) -> None:
    demo.read_until("Everything answers")
    first, second = (f"backend: 127.0.0.1:{port + demo.offset}" for port in (9091, 9092))
    assert demo.backend_of("/hello") == first
    assert demo.backend_of("/admin/x") == second

    text = demo.registry.read_text(encoding="utf-8")
    moved = text.replace(
        f"http-backend: localhost:{9091 + demo.offset}", f"http-backend: localhost:{9092 + demo.offset}"
    )
    assert moved != text
    demo.registry.write_text(moved, encoding="utf-8")
    deadline = time.monotonic() + 10
    while demo.backend_of("/hello") != second:
        assert time.monotonic() < deadline, "the edited registry was not obeyed"

    demo.process.send_signal(number)
    demo.read_until(f"{number.name}: stopping")
    demo.read_to_the_end()
    assert demo.process.wait(timeout=30) == 0
    for port in PORTS:
        socket.create_server(("127.0.0.1", port + demo.offset)).close()


def test_a_taken_port_is_one_clear_line() -> None:
    offset = free_offset()
    with socket.create_server(("127.0.0.1", 8081 + offset)):
        done = subprocess.run([*DEMO, "--offset", str(offset)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == (
        f"scripts/run: already in use: port {8081 + offset}; --offset N moves all ports of the demo\n"
    )
