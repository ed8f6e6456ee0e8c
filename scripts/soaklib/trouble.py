"""What goes wrong during the run, one thing after the other and often several at once; and what that explains."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from time import monotonic
from typing import Any

from scripts.faultlib.faults.reloads import reload
from scripts.faultlib.load import WRONG, Answer
from scripts.faultlib.stage import Stage, StageError, Worker, eventually, listener, pause, service
from tests.harness.authority import Authority
from tests.harness.charon import CharonProcess
from tests.harness.waiting import alive

BACKENDS = 3
KILLED_SLOT = 0
"""Only the worker of this slot is killed: the other's memory is looked at over the whole run."""

_HOLDS = 0.1
"""Seconds by which a moment on one side of a connection may differ from the same on the other."""

_RECOVERS = 2.0
"""Seconds after a backend's return in which its absence may still be felt: probes come each second."""

_DOWN_FOR = 2.0
_IDENTITY = "spiffe://example.org/"


@dataclass
class History:
    """When what went wrong: (began, over), monotonic seconds; ``marks`` are all of them for the picture."""

    kills: list[tuple[float, float]] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.done[what] += 1
        self.marks.append((monotonic(), what))

    def explain(self, answer: Answer) -> str | None:
        """Why a request may have failed as it did; None when nothing explains it."""
        if answer.reason.startswith(WRONG):
            return None

        def meets(began: float, over: float) -> bool:
            return answer.sent <= over + _HOLDS and answer.done >= began - _HOLDS

        cut = answer.status == 0 and answer.reason.startswith(("closed ", "reset "))
        if answer.stream.startswith("mtls") and answer.status == 0 and not answer.sent:
            cut = "refused" not in answer.reason  # killed during the handshake
        if cut and any(meets(*kill) for kill in self.kills):
            return "in flight in a worker that was killed"
        out = any(meets(began, over + _RECOVERS) for began, over in self.outages)
        if out and answer.status in (502, 503) and answer.reason:
            return f"a backend was down: {answer.status} {answer.reason}"
        if out and cut and (answer.stream.startswith("tcp") or "amid" in answer.reason):
            return "in flight at a backend that was killed"
        return None


class Trouble:
    """A Charon with its backends, and what is done to them."""

    def __init__(self, stage: Stage) -> None:
        self.history = History()
        self._stage = stage
        self._folder = stage.folder()
        self.posts = self._folder / "posts"
        self._authority = Authority()
        self._write_certificates(both=True)
        self._backends = [stage.backend(posts=str(self.posts)) for _ in range(BACKENDS)]
        self._addresses = [backend.address for backend in self._backends]
        self._generation = 0
        self.charon: CharonProcess = stage.charon(self._config())
        self._aborters: list[Worker] = []
        self._crowd: Worker | None = None
        self._next_backend = 0

    @property
    def certificates(self) -> Path:
        """The folder with the clients' certificate."""
        return self._folder

    def _write_certificates(self, both: bool = False) -> None:
        self._write("server", "charon")
        if both:
            (self._folder / "ca.pem").write_bytes(self._authority.pem)
            self._write("client", "client")

    def _write(self, name: str, who: str) -> None:
        """Each file whole, by a rename, as tools that keep certificates do."""
        leaf = self._authority.issue(_IDENTITY + who)
        for ending, data in (("key", leaf.key), ("cert", leaf.cert)):
            beside = self._folder / f"{name}-{ending}.new"
            beside.touch(0o600)
            beside.write_bytes(data)
            beside.replace(self._folder / f"{name}-{ending}.pem")

    def _config(self) -> dict[str, Any]:
        number = self._generation
        tls = {"enabled": True, "trust_domain": "example.org", "allowed_identities": [f"{_IDENTITY}client"]}
        tls |= {
            key: str(self._folder / name)
            for key, name in (("cert_file", "server-cert.pem"), ("key_file", "server-key.pem"), ("ca_file", "ca.pem"))
        }
        routes = [{"path_prefix": f"/other-{number}", "service": "app", "timeout": f"{number % 9 + 1}s"}]
        listeners = [
            listener("app", "web", routes=routes, timeouts={"client_header": "4s"}),
            listener("app", "secure", tls=tls),
            listener("app", "relay", protocol="tcp"),
        ]
        if number % 2:
            listeners.append(listener("app", "comes-and-goes"))
        settings = {"timeouts": {"idle": "20s"}, "retry": {"backoff": "20ms"}}
        return {
            "circuit_breaker": {"open_duration": "1s"},
            "health_check": {"interval": "1s", "cooldown": "1s", "max_cooldown": "1s"},
            "services": service("app", *self._addresses, **settings),
            "listeners": listeners,
        }

    # -- what goes wrong -----------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Another configuration; each third has a mistake, and then nothing may change."""
        self._generation += 1
        bad = self._generation % 3 == 0
        event, _ = reload(self.charon, self._config(), mistake=bad)
        self.history.note("reload with a mistake" if bad else "reload")
        if event["message"] != ("config_reload_failed" if bad else "config_reloaded"):
            self.history.odd.append(f"reload {self._generation}: {event['message']} {event.get('problems')}")

    def rotate(self) -> None:
        """Another certificate for the listener with TLS."""
        self._write_certificates()
        self.history.note("rotation")

    def kill_worker(self) -> None:
        """``kill -9``; the next one must be there within the patience of the harness."""
        since = len(self.charon.log_lines())
        pid = self.charon.worker_pids()[KILLED_SLOT]
        began = monotonic()
        os.kill(pid, signal.SIGKILL)
        if eventually(lambda: alive(pid), lambda there: not there, 2):
            raise StageError(f"worker {pid} does not end")
        self.history.kills.append((began, monotonic()))
        self.history.note("worker killed")
        self.charon.wait_for_event("worker_started", since=since, worker=KILLED_SLOT)

    def kill_backend(self) -> Callable[[], None]:
        """One of them goes; what brings it back, to be called a while later."""
        place, self._next_backend = self._next_backend, (self._next_backend + 1) % BACKENDS
        began = monotonic()
        self._backends[place].kill()
        self.history.note("backend killed")
        outage = len(self.history.outages)
        self.history.outages.append((began, began + 3600))  # until it is back

        def bring_back() -> None:
            port = self._backends[place].port
            self._backends[place].end()
            self._backends[place] = self._stage.backend(port, posts=str(self.posts))
            self.history.outages[outage] = began, monotonic()

        return bring_back

    def abort(self) -> None:
        """Forty clients leave in the midst of what they do."""
        for aborter in self._aborters:
            aborter.end()
        result, prefix = str(self._folder / "left"), f"abort-{self.history.done['clients that leave']}-"
        self._aborters = [
            self._stage.program("aborter", str(self.charon.port("web")), "40", result, prefix),
        ]
        self.history.note("clients that leave")

    def crowd(self) -> None:
        """Thirty clients who never get to the end of their heads."""
        if self._crowd is not None:
            self._crowd.end()
        self._crowd = self._stage.crowd(self.charon.port("web"), 30, b"GET / HTTP/1.1\r\nHost: a\r\nX-", 1.0)
        self.history.note("slow clients")

    def calm(self) -> None:
        """Everybody goes, and the first configuration is in force again."""
        for program in [*self._aborters, *([self._crowd] if self._crowd is not None else [])]:
            program.end()
        self._generation = 0
        reload(self.charon, self._config())


def play(trouble: Trouble, seconds: float, sample: Callable[[], None], calm: bool = False) -> None:
    """Let things go wrong for so long, by their own clocks (``calm``: nothing does), and take samples."""
    began = monotonic()
    every: list[tuple[float, int, float, Callable[[], Any]]] = [
        (first, number, period, action)
        for number, (first, period, action) in enumerate(
            (
                (0.0, 5.0, sample),
                (3.0, 7.0, trouble.reload),
                (5.0, 10.0, trouble.rotate),
                (8.0, 20.0, trouble.kill_worker),
                (13.0, 15.0, trouble.kill_backend),
                (2.0, 11.0, trouble.abort),
                (6.0, 25.0, trouble.crowd),
            )
        )
        if action is sample or not calm
    ]
    heapify(every)
    number = len(every)
    while every:
        due, _, period, action = heappop(every)
        if due >= seconds:
            continue
        pause(began + due - monotonic())
        later = action()
        now = monotonic() - began
        number += 1
        if later is not None:
            heappush(every, (now + _DOWN_FOR, number, 0.0, later))
            number += 1
        if period:
            heappush(every, (max(due + period, now), number, period, action))
