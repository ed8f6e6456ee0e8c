from __future__ import annotations

import json
import os
from collections.abc import Callable
from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import BackendProcess, Stage, eventually, listener, pause, tally
from tests.harness.charon import CharonProcess, sample

_RATE = 300
_WITHIN = 1.0
_APART = 4.0
"""Seconds between two changes, and those after a change that belong to it."""
_NO_READING_ANYWAY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
"""Charon without the privilege of root to read what it may not: otherwise chmod 000 would change nothing."""


@fault(
    "registry",
    setup=f"A registry of 50,000 services; {_RATE} GET a second to two of them, in an open loop.",
    wrong="It is cut off half-way, deleted, made unreadable, and mended each time; then one entry moves to another "
    "backend, and then every other entry is replaced as well, each by an atomic rename.",
    passes="No request fails; while the file is broken charon_registry_last_reload_successful is 0 and the last good "
    "one is in force; a change is followed by every worker within 1 s; no request waits for it 100 ms.",
    short=Size(count=50_000),
    full=Size(count=50_000),
)
def registry(stage: Stage) -> None:
    old, new = stage.backend(), stage.backend()
    text = _text(stage.size.count, old.address, old.address)
    charon = stage.charon(
        {
            "registry_file": "registry.yaml",
            "listeners": [listener("steady", routes=[{"path_prefix": "/moving", "service": "moving"}])],
        },
        registry=text,
        prefix=_NO_READING_ANYWAY if os.geteuid() == 0 else (),
    )
    load = stage.load(
        Stream("steady", charon.port(), _RATE / 2, 30),
        Stream("moving", charon.port(), _RATE / 2, 30, path="/moving"),
    )
    load.wait_until(2)
    calm = monotonic()
    _break(stage, charon, text)
    moves = []
    for title, moved in (
        ("one entry of all", _text(stage.size.count, old.address, new.address)),
        ("every entry", _text(stage.size.count, old.address, old.address, "new")),
    ):
        pause(_APART)
        moves.append((title, _replace(charon, moved)))
    answers = load.answers()
    bad = [answer for answer in answers if answer.status != 200]
    stage.check(f"requests without 200, of {len(answers)}", f"{len(bad)} ({tally(bad)})", "0", not bad)
    before = [answer for answer in answers if answer.due < calm]
    stage.tell("p99, most before anything happens", _slowest(before))
    for (title, when), (left, stay) in zip(moves, ((old, new), (new, old)), strict=True):
        _judge(stage, title, when, left, stay, answers)
    status = json.loads(charon.admin("/api/status")[1])
    followed = [worker["generation"] for worker in status["workers"]] == [status["generation"]] * stage.workers
    stage.check("every worker at the generation of the status", status["generation"], "yes", followed)


def _text(count: int, steady: str, moving: str, prefix: str = "service") -> str:
    """``count`` services: the two that are asked, and others that nobody asks."""
    rest = (
        f"  {prefix}-{number}: 127.{number >> 16}.{number >> 8 & 255}.{number & 255}:9" for number in range(count - 2)
    )
    return "\n".join(("services:", f"  steady: {steady}", *rest, f"  moving: {moving}", ""))


def _break(stage: Stage, charon: CharonProcess, text: str) -> None:
    """Everything that can befall the file; it is as it was in the end."""
    path = charon.registry_path
    half = text[: text.index(":", len(text) // 2)]
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "cut off": (lambda: path.write_text(half), lambda: path.write_text(text)),
        "deleted": (path.unlink, lambda: path.write_text(text)),
        "unreadable": (lambda: path.chmod(0), lambda: path.chmod(0o644)),
    }
    for title, (harm, mend) in ways.items():
        harm()
        down = _alarm(charon, 0)
        stage.check(f"{title}: alarm after", milliseconds(down), "< 2 s", down < 2)
        mend()
        up = _alarm(charon, 1)
        stage.check(f"{title}: taken back after it is mended", milliseconds(up), "< 2 s", up < 2)


def _alarm(charon: CharonProcess, value: int) -> float:
    """Seconds until the metric that tells whether the registry is in order has ``value``."""
    began = monotonic()
    name = "charon_registry_last_reload_successful"
    eventually(lambda: sample(charon.metrics(), name), lambda found: found == value, 5)
    return monotonic() - began


def _replace(charon: CharonProcess, text: str) -> float:
    """Another registry in the place of this one; when."""
    beside = charon.registry_path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(charon.registry_path)
    return monotonic()


def _judge(
    stage: Stage, title: str, when: float, left: BackendProcess, new: BackendProcess, answers: list[Answer]
) -> None:
    seen = [at for at, _, _, path in new.tell()["requests"] if path == "/moving" and when < at < when + _APART]
    late = [at for at, _, _, path in left.tell()["requests"] if path == "/moving" and when < at < when + _APART]
    took = max([min(seen), *late]) - when
    stage.check(f"{title}: followed by every worker after", milliseconds(took), f"< {_WITHIN:g} s", took < _WITHIN)
    during = [answer for answer in answers if when < answer.due < when + _APART]
    worst = max(answer.latency for answer in during)
    stage.check(f"{title}: p99, most meanwhile", _slowest(during), "most < 100 ms", worst < 0.1)


def _slowest(answers: list[Answer]) -> str:
    waits = [answer.latency for answer in answers]
    return f"{milliseconds(percentile(waits, 99))}, {milliseconds(max(waits))}"
