from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import BackendProcess, Stage, listener, pause, status, tally
from tests.harness.charon import CharonProcess, sample

_RATE = 300
_WITHIN = 1.0
_ALL_WITHIN = 2.0
_TOLD = 2.0
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
    "one is in force; every worker follows a changed entry within 1 s, and 50,000 of them within 2 s; no request waits "
    "100 ms for that.",
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
    for title, within, moved in (
        ("one entry of all", _WITHIN, _text(stage.size.count, old.address, new.address)),
        ("every entry", _ALL_WITHIN, _text(stage.size.count, old.address, old.address, "new")),
    ):
        pause(1)
        moves.append((title, within, _replace(charon, moved)))
        pause(_APART)
    answers = load.answers()
    bad = [answer for answer in answers if answer.status != 200]
    stage.check(f"requests without 200, of {len(answers)}", f"{len(bad)} ({tally(bad)})", "0", not bad)
    before = [answer for answer in answers if answer.due < calm]
    stage.tell("p99, most before anything happens", _slowest(before))
    for (title, within, when), (left, stay) in zip(moves, ((old, new), (new, old)), strict=True):
        _judge(stage, title, within, when, left, stay, answers)
    told = status(charon)
    followed = [worker["generation"] for worker in told["workers"]] == [told["generation"]] * stage.workers
    stage.check("every worker at the generation of the status", told["generation"], "yes", followed)


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
        for what, act, event, alarm in (
            ("told", harm, "registry_reload_failed", 0),
            ("mended: told", mend, "registry_reloaded", 1),
        ):
            since = charon.mark()
            act()
            began = monotonic()
            charon.wait_for_event(event, since=since)
            took = monotonic() - began
            value = sample(charon.metrics(), "charon_registry_last_reload_successful")
            bound = f"< {_TOLD:g} s; {alarm}"
            stage.check(
                f"{title}, {what} after; metric",
                f"{milliseconds(took)}; {value:g}",
                bound,
                took < _TOLD and value == alarm,
            )


def _replace(charon: CharonProcess, text: str) -> float:
    """Another registry in the place of this one; when."""
    beside = charon.registry_path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(charon.registry_path)
    return monotonic()


def _judge(
    stage: Stage,
    title: str,
    within: float,
    when: float,
    left: BackendProcess,
    new: BackendProcess,
    answers: list[Answer],
) -> None:
    def seen(backend: BackendProcess) -> list[float]:
        times = [at for at, _, _, path in backend.tell()["requests"] if path == "/moving"]
        return [at for at in times if when < at < when + _APART]

    took = max(min(seen(new), default=when + 999), max(seen(left), default=when)) - when
    stage.check(f"{title}: followed by every worker after", milliseconds(took), f"< {within:g} s", took < within)
    during = [answer for answer in answers if when < answer.due < when + _APART]
    worst = max(answer.latency for answer in during)
    stage.check(f"{title}: p99, most meanwhile", _slowest(during), "most < 100 ms", worst < 0.1)


def _slowest(answers: list[Answer]) -> str:
    waits = [answer.latency for answer in answers]
    return f"{milliseconds(percentile(waits, 99))}, {milliseconds(max(waits))}"
