from __future__ import annotations

import os
import signal
from itertools import pairwise
from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import Stage, StageError, eventually, listener, pause, service, status, tally
from tests.harness.charon import CharonProcess, total
from tests.harness.waiting import alive

_RATE = 500
_APART = 5.5
_SERVES = 1.0
_HOLDS = 0.05
"""Seconds by which a moment on one side of a connection may differ from the same on the other."""


@fault(
    "worker-kills",
    setup=f"{_RATE} GET a second in an open loop, half of them on connections of their own; the upstream takes 5 ms.",
    wrong="A worker is killed (kill -9) every 5.5 s, the slots by turns.",
    passes="Ten kills: no connection is refused; only a request that was in flight in the killed worker fails; the "
    "replacement serves within 1 s; counters never go down; the status tells the new workers.",
    short=Size(count=4),
    full=Size(count=10),
)
def worker_kills(stage: Stage) -> None:
    backend = stage.backend(delay=0.005)
    charon = stage.charon({"services": service("app", backend.address), "listeners": [listener("app")]})
    seconds = (stage.size.count + 1) * _APART
    load = stage.load(
        Stream("kept", charon.port(), _RATE / 2, seconds, poisson=True),
        Stream("fresh", charon.port(), _RATE / 2, seconds, fresh=True, poisson=True),
    )
    counts = [_requests(charon)]
    kills: list[tuple[float, float]] = []
    replaced: list[float] = []
    for number in range(stage.size.count):
        load.wait_until((number + 0.5) * _APART)
        began, gone, ready = _kill(charon, number % stage.workers)
        kills.append((began, gone))
        replaced.append(ready - began)
        counts += [_requests(charon)]
        pause(1.5)
        counts += [_requests(charon)]
    answers = load.answers()
    _judge(stage, answers, kills)
    worst = max(replaced)
    stage.check("replacement ready after, most", milliseconds(worst), f"< {_SERVES:g} s", worst < _SERVES)
    fell = [f"{before:.0f} -> {after:.0f}" for before, after in pairwise(counts) if after < before]
    stage.check("counter of requests went down", ", ".join(fell) or "never", "never", not fell)
    told = status(charon)
    deaths = sum(worker["deaths"] for worker in told["workers"])
    true = deaths == stage.size.count and told["ready"] and all(alive(worker["pid"]) for worker in told["workers"])
    stage.check("deaths in the status; every worker there", deaths, f"{stage.size.count}; yes", true)


def _judge(stage: Stage, answers: list[Answer], kills: list[tuple[float, float]]) -> None:
    failed = [answer for answer in answers if answer.status != 200]
    refused = [answer for answer in failed if "cannot connect" in answer.reason]
    unexcused = [
        answer
        for answer in failed
        if answer not in refused
        and not any(answer.sent <= gone + _HOLDS and answer.done >= kill - _HOLDS for kill, gone in kills)
    ]
    stage.check("connections refused", len(refused), "0", not refused)
    title = f"failed that were not in flight, of {len(answers)}"
    stage.check(title, f"{len(unexcused)} ({tally(unexcused)})", "0", not unexcused)
    stage.tell("failed in flight", len(failed))
    for reason in sorted({answer.reason for answer in failed}):
        stage.tell(f"  {reason}", sum(answer.reason == reason for answer in failed))
    near = [answer for answer in answers if any(kill <= answer.due < kill + _SERVES for kill, _ in kills)]
    waited = max((answer.latency for answer in near if answer.status == 200), default=0.0)
    stage.check("longest wait for the replacement", milliseconds(waited), f"< {_SERVES:g} s", waited < _SERVES)
    far = [answer.latency for answer in answers if not any(kill <= answer.due < kill + 2 for kill, _ in kills)]
    stage.tell("p99 away from the kills", milliseconds(percentile(far, 99)))


def _kill(charon: CharonProcess, slot: int) -> tuple[float, float, float]:
    """Kill the worker of a slot: when it was told to go, when it had gone, and when the next one was ready."""
    since = len(charon.log_lines())
    pid = charon.worker_pids()[slot]
    began = monotonic()
    os.kill(pid, signal.SIGKILL)
    if eventually(lambda: alive(pid), lambda there: not there, 2):
        raise StageError(f"worker {pid} does not end")
    gone = monotonic()
    charon.wait_for_event("worker_started", since=since, worker=slot)
    return began, gone, monotonic()


def _requests(charon: CharonProcess) -> float:
    return total(charon.metrics(), "charon_http_requests_total")
