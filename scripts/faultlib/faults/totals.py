from __future__ import annotations

import os
import signal
from time import monotonic

from scripts.faultlib.fault import Size, fault
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import LoadProcess, Stage, listener, pause, service
from tests.harness.charon import CharonProcess, Metrics, total

_RATE = 1000
_MONOTONIC = ("_total", "_count", "_bucket", "_sum")
_REQUESTS = "charon_http_requests_total"


@fault(
    "totals",
    setup=f"GET at {_RATE}/s in an open loop through all workers, the metrics scraped ten times a second.",
    wrong="Two of the workers are killed (kill -9) on the way.",
    passes="The requests counted are those that clients had answered, but for what was in flight in a worker that was "
    "killed, and no counter ever falls.",
    short=Size(count=10_000),
    full=Size(count=100_000),
)
def totals(stage: Stage) -> None:
    backend = stage.backend()
    charon = stage.charon({"services": service("app", backend.address), "listeners": [listener("app")]})
    seconds = stage.size.count / _RATE
    load = stage.load(Stream("get", charon.port(), _RATE, seconds))
    falls, kills, scrapes = _watch(charon, load, [seconds / 3, seconds * 2 / 3])
    answers = load.answers()
    answered = [answer for answer in answers if answer.status == 200]
    in_flight = [answer for answer in answers if any(_spans(answer, kill) for kill in kills)]
    counted = int(total(charon.metrics(), _REQUESTS))
    latencies = int(total(charon.metrics(), "charon_http_request_latency_seconds_count"))
    stage.tell("workers killed", len(kills))
    stage.tell("answered, not answered", f"{len(answered)}, {len(answers) - len(answered)}")
    stage.check(
        "counted",
        counted,
        f"{len(answered)} +- {len(in_flight)} in flight",
        abs(counted - len(answered)) <= len(in_flight),
    )
    stage.check("latencies observed", latencies, f"{counted}", latencies == counted)
    stage.check("counters that fell", ", ".join(falls) or "0", f"0 in {scrapes} scrapes", not falls and scrapes > 5)


def _watch(
    charon: CharonProcess, load: LoadProcess, due: list[float]
) -> tuple[list[str], list[tuple[float, float]], int]:
    """Scrape while the load lasts, and kill a worker at each second of ``due``.

    Returns the counters that fell, when kills began and had been done, and how many scrapes there were.
    """
    falls: list[str] = []
    kills: list[tuple[float, float]] = []
    before: Metrics = {}
    scrapes = 0
    while load.process.poll() is None:
        now = charon.metrics()
        scrapes += 1
        falls += [
            name
            for (name, labels), value in before.items()
            if name.endswith(_MONOTONIC) and now.get((name, labels), 0) < value
        ]
        before = now
        if due and monotonic() - load.began >= due[0]:
            due.pop(0)
            kills.append(_kill(charon.worker_pids()[len(kills)]))
        pause(0.1)
    return falls, kills, scrapes


def _kill(pid: int) -> tuple[float, float]:
    began = monotonic()
    os.kill(pid, signal.SIGKILL)
    return began, monotonic()


def _spans(answer: Answer, kill: tuple[float, float]) -> bool:
    """Whether a request may have been under way when a worker was killed; clients may hear of it a little later."""
    return answer.sent <= kill[1] and answer.done >= kill[0] - 0.01
