"""Requests to the Charon in the machine while something happens to it."""

from __future__ import annotations

import json
import subprocess
from time import monotonic, sleep
from types import TracebackType
from typing import Any

from scripts.packagelib.machine import CommandFailed, Machine


class Load:
    """``rate`` requests a second for ``seconds``, half of them on connections of their own; in a with block."""

    def __init__(self, machine: Machine, rate: float = 200, seconds: float = 10) -> None:
        self.machine = machine
        self.total = round(rate * seconds)
        self.failures: list[str] = []
        self._seconds = seconds
        kept = {"name": "kept", "port": 8080, "rate": rate / 2, "seconds": seconds}
        machine.write("/srv/load/load.json", json.dumps([kept, kept | {"name": "fresh", "fresh": True}]))

    def __enter__(self) -> Load:
        script = "cd /srv/load && exec python3 -m scripts.faultlib.load load.json answers.json all"
        self._process = subprocess.Popen(
            self.machine.command(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith(b"began"):
            raise CommandFailed("the load has not begun")
        self._began = monotonic()
        return self

    @property
    def running(self) -> bool:
        return monotonic() - self._began < self._seconds - 1

    def at(self, seconds: float) -> None:
        """Wait until the load has run for so long."""
        sleep(max(0.0, self._began + seconds - monotonic()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=self._seconds + 60)
        if kind is None:
            answers: list[list[Any]] = json.loads(self.machine.read("/srv/load/answers.json"))["answers"]
            if len(answers) != self.total:
                raise CommandFailed(f"{len(answers)} answers to {self.total} requests")
            self.failures = [f"{status} {reason}" for *_, status, reason in answers if status != 200]
            self.worst = max(done - due for _, _, _, due, _, done, *_ in answers)

    def verdict(self) -> str:
        """What it came to. Raises CommandFailed when a request failed."""
        if self.failures:
            kinds = {kind: self.failures.count(kind) for kind in sorted(set(self.failures))}
            raise CommandFailed(f"{len(self.failures)} of {self.total} requests failed: {kinds}")
        return f"{self.total} requests, 0 failed, longest {self.worst * 1000:.0f} ms"
