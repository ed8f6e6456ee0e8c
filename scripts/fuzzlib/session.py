"""One run of one target, however its inputs are made: counts them, times them, and keeps what is found."""

from __future__ import annotations

import traceback
from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from math import inf
from time import perf_counter, thread_time
from typing import Any

from scripts.fuzzlib.target import Target

MOST_FINDINGS = 20
"""Different findings after which a run is over."""

TRIES = 3
"""How often an input that seems slow is measured: the machine may have been busy, an input is slow every time."""


@dataclass
class Result:
    """What a run came to. ``findings`` are pairs of a text and the input, each byte the character of its number;
    ``corpus`` is how many inputs were in the pool at the end. Times are seconds."""

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_size: int = 0
    corpus: int = 0
    findings: list[tuple[str, str]] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        return asdict(self)


class Session:
    """Runs inputs through ``target`` until there have been ``inputs`` or ``seconds`` are over."""

    def __init__(self, target: Target, seconds: float = inf, inputs: float = inf) -> None:
        self.result = Result()
        self._target = target
        self._check = target.check
        self._inputs = inputs
        self._began = self._now = perf_counter()
        self._ends = self._began + seconds
        self._suspect = 0.0
        self._known: set[Hashable] = set()

    def run(self, data: bytes) -> Hashable:
        """Check one input; gives the kind of verdict, None for a finding."""
        began = perf_counter()
        try:
            kind = self._check(data)
        except Exception as error:  # noqa: BLE001 - any exception is what is looked for
            self._found(data, error)
            kind = None
        self._now = now = perf_counter()
        if now - began > self._suspect:
            self._measure(data)
        self.result.inputs += 1
        return kind

    def over(self) -> bool:
        """Whether the run has come to its end."""
        result = self.result
        if result.inputs < self._inputs and self._now < self._ends and len(result.findings) < MOST_FINDINGS:
            return False
        result.seconds = self._now - self._began
        return True

    def _found(self, data: bytes, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = (type(error), frames[-1].filename, frames[-1].lineno, frames[-2].lineno if len(frames) > 1 else 0)
        if place not in self._known:
            self._known.add(place)
            text = "".join(traceback.format_exception(error)[-3:])
            self.result.findings.append((text, data.decode("latin-1")))

    def _measure(self, data: bytes) -> None:
        least = inf
        for _ in range(TRIES):
            began = thread_time()
            try:
                self._check(data)
            except Exception:  # noqa: BLE001 - told already
                return
            least = min(least, thread_time() - began)
        if least > self.result.slowest:
            self.result.slowest, self.result.slowest_size = least, len(data)
            self._suspect = least
        if least > self._target.slow and "slow" not in self._known:
            self._known.add("slow")
            self.result.findings.append((f"slow: {least * 1000:.1f} ms\n", data.decode("latin-1")))
