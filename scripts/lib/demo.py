"""The demonstration that scripts/run shows: backends, Charon in front of them, and lines to try.

Standard library only. Every program is a child of this one, in a session of its own (a Ctrl-C in the terminal reaches
this program alone, which then stops the others in order), and dies with it.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE = 30.0  # seconds until everything must answer
STOP_DEADLINE = 15.0  # seconds until a child that was told to stop is killed; above the demo's drain_timeout
POLL = 0.05  # seconds between two tries of something that has no event to wait for
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

CONFIG = """\
# Made by scripts/run for the demonstration, and written anew at every start.
registry_file: registry.yaml
drain_timeout: 5s

admin:
  socket: admin.sock

listeners:
  - name: web
    address: "127.0.0.1:{http}"
    protocol: http
    routes:
      - host: admin.example.com
        service: admin-backend
      - path_prefix: /admin
        service: admin-backend
    target_service_name: http-backend

  - name: echo
    address: "127.0.0.1:{tcp}"
    protocol: tcp
    target_service_name: echo
"""

REGISTRY = """\
# Made by scripts/run. Edit it while Charon runs: a change takes effect within a second.
services:
  http-backend: localhost:{backend}
  admin-backend: localhost:{admin}
  echo: localhost:{echo}
"""

TRY = """
Everything answers. Things to try in another terminal:

  curl -i http://localhost:{http}/hello
  curl -i http://localhost:{http}/admin/users                              # another backend, by path
  curl -i -H 'Host: admin.example.com' http://localhost:{http}/            # another backend, by host
  curl -i -X POST -d 'some text' http://localhost:{http}/submit
  curl -N 'http://localhost:{http}/stream?chunks=5&ms=500'                 # arrives piece by piece
  echo hello | nc -q 1 localhost {tcp}                                     # TCP, echoed
  curl -s http://localhost:{http}/metrics | grep ^charon_

Move a service while it is used, and look at the "backend:" line of the answer:

  sed -i 's/http-backend: localhost:{backend}/http-backend: localhost:{admin}/' {registry}
  curl -s http://localhost:{http}/hello

Configuration: {config}
Ctrl-C stops everything.
"""


@dataclass(frozen=True)
class Ports:
    http: int = 8080
    tcp: int = 8081
    backend: int = 9091
    admin: int = 9092
    echo: int = 9093

    @classmethod
    def moved(cls, offset: int) -> Ports:
        return cls(*(port + offset for port in vars(cls()).values()))


@dataclass(frozen=True)
class Died:
    name: str
    status: int


@dataclass(frozen=True)
class Told:
    """Someone told us to stop: ``why`` is for the last line."""

    why: str


class Failed(Exception):
    """The demonstration cannot go on; the text says why in one line."""


class Demo:
    """The running programs. ``events`` carries what the main thread waits for: deaths and orders to stop."""

    def __init__(self) -> None:
        self.children: dict[str, subprocess.Popen[str]] = {}
        self.events: queue.SimpleQueue[Died | Told] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.printing = threading.Lock()

    def show(self, text: str) -> None:
        with self.printing:
            try:
                print(text, flush=True)
            except BrokenPipeError:
                self.events.put(Told("nobody reads the output any more"))

    def start(self, name: str, *arguments: str) -> None:
        """Start ``python -m ARGUMENTS``, show its output line by line, and report its death."""
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self.children[name] = child
        assert child.stdout is not None
        for target, args in ((self._stream, (name, child.stdout)), (self._watch, (name, child))):
            thread = threading.Thread(target=target, args=args, name=f"{target.__name__} {name}", daemon=True)
            thread.start()
            self.threads.append(thread)

    def _stream(self, name: str, output: IO[str]) -> None:
        for line in output:
            self.show(f"{name:<13} | {line.rstrip()}")

    def _watch(self, name: str, child: subprocess.Popen[str]) -> None:
        self.events.put(Died(name, child.wait()))

    def wait(self, timeout: float | None = None) -> Died | Told | None:
        """The next event, or None when ``timeout`` seconds passed without one."""
        try:
            return self.events.get(timeout=timeout)
        except queue.Empty:
            return None

    def until(self, what: str, answers: Callable[[], bool], deadline: float) -> Told | None:
        """Ask again and again until ``answers``; an order to stop that came meanwhile is returned."""
        while not answers():
            event = self.wait(POLL)
            if isinstance(event, Died):
                raise Failed(f"{event.name} ended with status {event.status} before everything was ready")
            if event is not None:
                return event
            if time.monotonic() > deadline:
                raise Failed(f"{what} did not answer within {START_DEADLINE:.0f} s")
        return None

    def stop(self) -> list[str]:
        """Stop Charon first, so that it can drain, then the rest. Returns what did not end cleanly."""
        unclean = []
        signal.signal(signal.SIGINT, lambda *_: self._kill_all())
        signal.signal(signal.SIGTERM, lambda *_: self._kill_all())
        for name, child in reversed(self.children.items()):
            if child.poll() is not None:
                continue
            child.terminate()
            try:
                status = child.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                unclean.append(f"{name} did not stop within {STOP_DEADLINE:.0f} s and was killed")
            else:
                if status != 0:
                    unclean.append(f"{name} ended with status {status}")
        for thread in self.threads:
            thread.join(2.0)
        return unclean

    def _kill_all(self) -> None:
        for child in self.children.values():
            child.kill()


def _die_with_parent() -> None:
    """Runs in the child before exec: end when this program ends, however it ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def taken(ports: Ports) -> list[int]:
    """The ports on which something listens already."""
    found = []
    for port in vars(ports).values():
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            found.append(port)
    return found


def http_answers(port: int, path: str) -> Callable[[], bool]:
    def ask() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ask


def tcp_echoes(port: int) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"ready?\n")
                return connection.recv(64) == b"ready?\n"
        except OSError:
            return False

    return ask


def write_files(folder: Path, ports: Ports) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    config, registry = folder / "config.yaml", folder / "registry.yaml"
    config.write_text(CONFIG.format(**vars(ports)), encoding="utf-8")
    registry.write_text(REGISTRY.format(**vars(ports)), encoding="utf-8")
    return config, registry


def shown_path(path: Path) -> str:
    """As short as it works from where the user stands."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def run(demo: Demo, ports: Ports, folder: Path) -> Told:
    """Start everything and wait until someone tells us to stop.

    Raises Failed when something does not start, or dies.
    """
    config, registry = write_files(folder, ports)
    demo.start("http-backend", "charon.testing.http_backend", "--addr", f"127.0.0.1:{ports.backend}")
    demo.start("admin-backend", "charon.testing.http_backend", "--addr", f"127.0.0.1:{ports.admin}")
    demo.start("echo", "charon.testing.echo_server", "--host", "127.0.0.1", "--port", str(ports.echo))
    demo.start("charon", "charon", "run", "--config", str(config))
    deadline = time.monotonic() + START_DEADLINE
    for what, answers in (
        ("the first backend", http_answers(ports.backend, "/")),
        ("the second backend", http_answers(ports.admin, "/")),
        ("the echo server", tcp_echoes(ports.echo)),
        ("the first backend through Charon", http_answers(ports.http, "/")),
        ("the second backend through Charon", http_answers(ports.http, "/admin")),
        ("the echo server through Charon", tcp_echoes(ports.tcp)),
        ("/metrics", http_answers(ports.http, "/metrics")),
    ):
        told = demo.until(what, answers, deadline)
        if told is not None:
            return told
    demo.show(TRY.format(config=shown_path(config), registry=shown_path(registry), **vars(ports)))
    event = demo.wait()
    if isinstance(event, Died):
        raise Failed(f"{event.name} ended with status {event.status}")
    assert event is not None
    return event


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/run", description="Charon between demo clients and demo backends.")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="add N to every port")
    offset: int = parser.parse_args().offset
    ports = Ports.moved(offset)
    if busy := taken(ports):
        words = ", ".join(map(str, busy))
        print(f"scripts/run: already in use: port {words}; --offset N moves all ports of the demo", file=sys.stderr)
        return 3
    demo = Demo()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: demo.events.put(Told(signal.Signals(number).name)))
    folder = ROOT / ".run" / (str(offset) if offset else "")
    problems = []
    try:
        told = run(demo, ports, folder)
        demo.show(f"\n{told.why}: stopping")
    except Failed as failure:
        problems.append(str(failure))
    unclean = demo.stop()
    problems = problems or unclean  # what was cut short while starting need not end well
    for problem in problems:
        print(f"scripts/run: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
