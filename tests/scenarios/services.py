"""Services by the dozen: each test has one of its own, behind a Charon that all tests of its file share."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.harness import PATIENCE
from tests.harness.backends import Closed, Connection, Request, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, descriptors, sample, total
from tests.harness.client import RawClient, Response

TRANSITIONS = "charon_circuit_breaker_transitions_total"


def serving(services: dict[str, dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """A configuration with one listener, where ``/NAME/...`` goes to the service NAME. ``route`` in a service's
    settings is what its rule has besides."""
    routes = []
    blocks = {}
    for name, block in services.items():
        kept = dict(block)
        routes.append({"path_prefix": f"/{name}", "service": name, **kept.pop("route", {})})
        blocks[name] = kept
    listener = {"name": "web", "address": "127.0.0.1:0", "routes": routes}
    return {"listeners": [listener], "services": blocks, **settings}


def ask(charon: CharonProcess, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> Response:
    """One request on a connection of its own, so that any worker may get it."""
    with RawClient(charon.port("web")) as client:
        length = [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT") else []
        client.request(f"{method} {path}", *headers, *length, "Connection: close")
        client.send(body)
        return client.read_response(method)


def ask_at_once(charon: CharonProcess, path: str, count: int) -> list[Response]:
    """``count`` requests at the same time, each on a connection of its own."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(charon, path), range(count)))


def by_path(request: Request) -> bytes:
    """What the request's last segment says: ``/x/fail`` 500, ``/x/503`` that status, anything else 200.

    Connections are not kept, so that a script which a test sets afterwards gets the next request.
    """
    word = request.target.rpartition("/")[2].partition("?")[0]
    status = 500 if word == "fail" else int(word) if word.isdigit() else 200
    return http_response(status, b"as asked", "Connection: close")


class Gate:
    """A backend's script: it takes requests, says so, and answers each when it is let; then it answers at once."""

    def __init__(self, answer: bytes = http_response(200, b"fine", "Connection: close")) -> None:
        self.answer = answer
        self.arrived = threading.Semaphore(0)
        self.open = threading.Event()
        self.requests: list[Request] = []

    def __call__(self, connection: Connection) -> None:
        while True:
            try:
                request = connection.read_request()
            except (Closed, TimeoutError):
                return  # a connection that is kept may be idle for long
            self.requests.append(request)
            self.arrived.release()
            assert self.open.wait(PATIENCE)
            connection.send(self.answer)

    def wait_for(self, count: int = 1) -> None:
        """Until ``count`` more requests have arrived."""
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE), f"{len(self.requests)} requests have come"


class Switch:
    """A backend at one address that can be down and up again; its answers hold its name."""

    def __init__(self, name: str = "up") -> None:
        self.name = name.encode()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            where = sock.getsockname()
        # Bound by number, a socket keeps its port when it stops listening.
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(where)
        self.address = "{}:{}".format(*where)

    def up(self) -> None:
        self._sock.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def down(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return  # down
            threading.Thread(target=self._answer, args=(Connection(sock, 0),), daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        try:
            if connection.recv():
                connection.send(http_response(200, self.name, "Connection: close"))
        except ConnectionError:
            pass  # a probe that has seen enough
        finally:
            connection.close()


def transitions(charon: CharonProcess, backend: ScriptedBackend) -> dict[str, float]:
    """How often the breaker of a backend has changed, by the state it changed to."""
    metrics = charon.metrics()
    states = ("open", "half_open", "closed")
    found = {state: sample(metrics, TRANSITIONS, upstream=backend.address, to_state=state) for state in states}
    return {state: count for state, count in found.items() if count}


def breaker_gauge(charon: CharonProcess, backend: ScriptedBackend) -> float:
    """0 closed, 1 open, 2 half-open."""
    return total(charon.metrics(), "charon_circuit_breaker_state", upstream=backend.address)


def statuses(answers: Iterable[Response]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def worker_of(sock: socket.socket, pids: Sequence[int]) -> int:
    """The worker at the other end of a connection that ``sock`` is this end of."""
    ends = (sock.getpeername()[1], sock.getsockname()[1])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if tuple(int(address.rpartition(":")[2], 16) for address in fields[1:3]) == ends and fields[9] != "0":
            for pid in pids:
                if f"socket:[{fields[9]}]" in descriptors(pid):
                    return pid
    raise AssertionError(f"no worker has {ends}")


def spread(charon: CharonProcess, path: str, count: int, *headers: str) -> Counter[bytes]:
    """The bodies of ``count`` answers, counted: who has answered, where backends give their names."""
    return Counter(ask(charon, path, *headers).body for _ in range(count))
