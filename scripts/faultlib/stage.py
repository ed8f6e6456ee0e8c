"""What a fault plays on: Charon, backends and load as processes of their own, all of them gone at the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from scripts.faultlib.fault import Figure, Report, Size
from scripts.faultlib.load import PATIENCE, Answer, Stream, specification
from tests.harness.charon import CharonProcess, descriptors, resident_bytes, total

T = TypeVar("T")
_ROOT = Path(__file__).resolve().parents[2]


class StageError(Exception):
    """The fault could not be played; the text says why."""


class Worker:
    """A program of this package. It ends with the stage, or when this process does: then its input ends."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"scripts.faultlib.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            start_new_session=True,  # Ctrl-C is for us, and we end the program
        )

    def line(self) -> str:
        """The next line it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise StageError(f"{self.process.args!r} ended with {self.process.wait()}")
        return line

    def say(self, line: str) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class BackendProcess(Worker):
    """See :mod:`scripts.faultlib.backend`."""

    def __init__(self, port: int = 0, **behaviour: Any) -> None:
        super().__init__("backend", str(port))
        self.port = int(json.loads(self.line())["port"])
        self.address = f"127.0.0.1:{self.port}"
        self.behave(**behaviour)

    def behave(self, **behaviour: Any) -> None:
        """Change how it behaves, from now on."""
        self._order({"set": behaviour})

    def tell(self) -> dict[str, Any]:
        """What it has seen."""
        return self._order({"tell": True})

    def kill(self) -> float:
        """``kill -9``; when it was gone (monotonic seconds)."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return monotonic()

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        self.say(json.dumps(order))
        answer: dict[str, Any] = json.loads(self.line())
        return answer


class Tunnels(Worker):
    """See :mod:`scripts.faultlib.tunnels`. All of them are open."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__("tunnels", str(port), str(count))
        found = json.loads(self.line())
        if found["opened"] != count:
            raise StageError(f"of {count} WebSockets {found['opened']} could be opened: {found['problems']}")

    def echo(self) -> dict[str, Any]:
        """Send bytes through each and tell how it went."""
        return self._order("echo")

    def tell(self) -> dict[str, Any]:
        """How they are."""
        return self._order("tell")

    def _order(self, word: str) -> dict[str, Any]:
        self.say(word)
        answer: dict[str, Any] = json.loads(self.line())
        return answer


class Crowd(Worker):
    """See :mod:`scripts.faultlib.crowd`. All of them are connected."""

    def __init__(self, port: int, count: int, send: bytes, every: float) -> None:
        super().__init__("crowd", str(port), str(count), send.hex(), str(every))
        self.line()

    def order(self, word: str) -> dict[str, Any]:
        """``tell`` or ``close``; how they are."""
        self.say(word)
        answer: dict[str, Any] = json.loads(self.line())
        return answer


class LoadProcess(Worker):
    """See :mod:`scripts.faultlib.load`. ``began`` is when its first request was due."""

    def __init__(self, folder: Path, streams: list[Stream], keep: str = "all") -> None:
        self._length = max(stream.start + stream.seconds for stream in streams)
        self._result = folder / "answers"
        (folder / "streams").write_text(specification(streams))
        super().__init__("load", str(folder / "streams"), str(self._result), keep)
        self.began = float(self.line().removeprefix("began "))

    def wait_until(self, second: float) -> None:
        """Until ``second`` of the load."""
        pause(self.began + second - monotonic())

    def answers(self) -> list[Answer]:
        """All of them, once the load is over, or with ``keep="failures"`` those that did not go well."""
        return [Answer(*item) for item in self.result()["answers"]]

    def result(self) -> dict[str, Any]:
        """``answers``, how many were ``good`` by stream, and how many of those took so many ``milliseconds``."""
        code = self.process.wait(max(0.0, self.began - monotonic()) + self._length + 3 * PATIENCE)
        if code:
            raise StageError(f"the load generator ended with {code}")
        found: dict[str, Any] = json.loads(self._result.read_text())
        return found


class Stage:
    """One play. ``size`` and ``workers`` are what the caller has asked for."""

    def __init__(self, report: Report, size: Size, workers: int, folder: Path) -> None:
        self.size = size
        self.workers = workers
        self.report = report
        self._folder = folder
        self._stack = ExitStack()
        self._parts = 0

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def folder(self) -> Path:
        """A new one."""
        self._parts += 1
        folder = self._folder / str(self._parts)
        folder.mkdir()
        return folder

    def enter(self, context: Any) -> Any:
        """Enter a context that is left with the stage."""
        return self._stack.enter_context(context)

    # -- what plays ---------------------------------------------------------------------------------------------

    def charon(
        self,
        config: dict[str, Any],
        *,
        access_log: bool = False,
        registry: str | None = None,
        prefix: Sequence[str] = (),
    ) -> CharonProcess:
        """Charon with ``workers`` workers; breaker and health checks are off where ``config`` does not name them.

        ``registry`` is the text of registry.yaml; ``prefix`` a command that runs Charon."""
        config = {"logging": {"access_log": access_log}, **config}
        process = CharonProcess(self.folder(), config, workers=self.workers, prefix=prefix)
        if registry is not None:
            process.write_registry(registry)
        self.enter(process)
        return process

    def backend(self, port: int = 0, **behaviour: Any) -> BackendProcess:
        """A backend that behaves so."""
        backend = BackendProcess(port, **behaviour)
        self._stack.callback(backend.end)
        return backend

    def load(self, *streams: Stream, keep: str = "all") -> LoadProcess:
        """Load that has begun; ``keep="failures"`` counts what went well and forgets it."""
        load = LoadProcess(self.folder(), list(streams), keep)
        self._stack.callback(load.end)
        return load

    def tunnels(self, port: int, count: int) -> Tunnels:
        """Open WebSockets."""
        tunnels = Tunnels(port, count)
        self._stack.callback(tunnels.end)
        return tunnels

    def crowd(self, port: int, count: int, send: bytes = b"", every: float = 0.0) -> Crowd:
        """Connections that say ``send``, and one byte more ``every`` so many seconds (0: never)."""
        crowd = Crowd(port, count, send, every)
        self._stack.callback(crowd.end)
        return crowd

    def program(self, module: str, *arguments: str) -> Worker:
        """Another program of this package."""
        worker = Worker(module, *arguments)
        self._stack.callback(worker.end)
        return worker

    # -- what comes out -----------------------------------------------------------------------------------------

    def tell(self, title: str, value: object) -> None:
        """A figure without a bound."""
        self.report.figures.append(Figure(title, str(value)))

    def check(self, title: str, value: object, bound: str, good: bool) -> None:
        """A figure that must be as ``bound`` says; ``good`` is whether it is."""
        self.report.figures.append(Figure(title, str(value), bound, good))


def pause(seconds: float) -> None:
    """Let the play go on by itself for a while."""
    threading.Event().wait(max(0.0, seconds))


def eventually(look: Callable[[], T], good: Callable[[T], bool], timeout: float) -> T:
    """What ``look`` says: once it is ``good``, or else when ``timeout`` seconds are over."""
    cutoff = monotonic() + timeout
    while True:
        found = look()
        if good(found) or monotonic() > cutoff:
            return found
        pause(0.05)


def service(name: str, *addresses: str, **settings: Any) -> dict[str, Any]:
    """An entry of ``services``."""
    return {name: {"addresses": list(addresses), **settings}}


def listener(target: str, name: str = "web", **settings: Any) -> dict[str, Any]:
    """An entry of ``listeners`` for a service."""
    return {"name": name, "address": "127.0.0.1:0", "target_service_name": target, **settings}


def tally(answers: Iterable[Answer]) -> str:
    """``200: 17, 503 circuit_open: 2``"""
    counts: dict[str, int] = {}
    for answer in answers:
        key = f"{answer.status or ''} {answer.reason}".strip()
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{key}: {count}" for key, count in sorted(counts.items())) or "none"


def transitions(charon: CharonProcess, state: str, upstreams: Collection[str] = ()) -> int:
    """How often breakers went into ``state``."""
    metrics = charon.metrics()
    name = "charon_circuit_breaker_transitions_total"
    if not upstreams:
        return int(total(metrics, name, to_state=state))
    return int(sum(total(metrics, name, to_state=state, upstream=upstream) for upstream in upstreams))


def status(charon: CharonProcess) -> dict[str, Any]:
    """What Charon says of itself."""
    code, body = charon.admin("/api/status")
    if code != 200:
        raise StageError(f"the admin socket answers {code} to /api/status")
    found: dict[str, Any] = json.loads(body)
    return found


class Holdings:
    """What all processes of a Charon hold: descriptors, greenlets, bytes of memory that are in RAM."""

    def __init__(self, charon: CharonProcess) -> None:
        assert charon.pid is not None
        self.pids = [charon.pid, *charon.worker_pids()]
        self.files = sum(len(descriptors(pid)) for pid in self.pids)
        self.memory = sum(resident_bytes(pid) for pid in self.pids)
        status, body = charon.admin("/api/greenlets")
        if status != 200:
            raise StageError(f"the admin socket answers {status} to /api/greenlets")
        self.greenlets = sum(len(names) for names in json.loads(body).values())
