from __future__ import annotations

import signal
from time import monotonic
from typing import Any

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, listener, pause, service, status, tally
from tests.harness.charon import CharonProcess, LogLine, sample
from tests.harness.client import RawClient

_RATE = 300
_APART = 0.6
"""Seconds between two reloads: a hundred in a minute."""
_EACH = 10
"""Every so many reloads the configuration has a mistake."""
_TUNNELS_RELOADS = 10


@fault(
    "reloads",
    setup=f"{_RATE} GET a second in an open loop, half of them on connections of their own.",
    wrong="The configuration changes and is reloaded every 0.6 s: another answer header each time, a listener that "
    "comes and goes; every tenth has a mistake.",
    passes="100 reloads, 10 of them with a mistake: no request fails, each mistake is told with its line, and after "
    "each reload the last good configuration is in force in all workers and told by the status.",
    short=Size(count=30),
    full=Size(count=100),
)
def reloads(stage: Stage) -> None:
    backend = stage.backend()
    charon = stage.charon(_config(backend.address, 0))
    seconds = stage.size.count * _APART * 2 + 2
    load = stage.load(
        Stream("kept", charon.port("web"), _RATE / 2, seconds),
        Stream("fresh", charon.port("web"), _RATE / 2, seconds, fresh=True),
    )
    began = monotonic()
    good, wrong, took = 0, [], []
    for number in range(1, stage.size.count + 1):
        pause(began + number * _APART - monotonic())
        started = monotonic()
        bad = number % _EACH == 0
        event, line = reload(charon, _config(backend.address, number), mistake=bad)
        took.append(monotonic() - started)
        good = good if bad else number
        wrong += [f"{number}: {what}" for what in _differs(charon, event, line, good)]
    spent = monotonic() - began
    answers = [answer for answer in load.answers() if answer.due < began + spent]
    failed = [answer for answer in answers if answer.status != 200]
    stage.tell("reloads", f"{stage.size.count} in {spent:.1f} s, each p50 {milliseconds(percentile(took, 50))}, "
               f"most {milliseconds(max(took))}")  # fmt: skip
    stage.check(f"requests without 200, of {len(answers)}", f"{len(failed)} ({tally(failed)})", "0", not failed)
    stage.check("reloads that went otherwise than they should", "; ".join(wrong[:3]) or "0", "0", not wrong)
    stage.tell("p99 of requests meanwhile", milliseconds(percentile([answer.latency for answer in answers], 99)))


def _config(backend: str, number: int) -> dict[str, Any]:
    edits = {"set": {"X-Generation": str(number)}}
    route = {"path_prefix": "/", "service": "app", "response_headers": edits}
    listeners = [listener("app", "web", routes=[route])]
    if number % 2:
        listeners.append(listener("app", "comes-and-goes"))
    return {"services": service("app", backend), "listeners": listeners}


def reload(charon: CharonProcess, config: dict[str, Any], *, mistake: bool = False) -> tuple[LogLine, int]:
    """Write ``config``, ask for a reload; the event that tells how it went, and the line of the mistake."""
    charon.write_config({"logging": {"access_log": False}, **config})
    line = 0
    if mistake:
        text = charon.config_path.read_text()
        line = text.count("\n") + 1
        charon.config_path.write_text(text + "limits: {max_headers: banana}\n")
    since = len(charon.log_lines())
    charon.signal(signal.SIGHUP)
    ends = ("config_reloaded", "config_reload_failed")
    lines = charon.wait_for_log(lambda found: any(one["message"] in ends for one in found[since:]))
    return next(one for one in lines[since:] if one["message"] in ends), line


def _differs(charon: CharonProcess, event: LogLine, line: int, good: int) -> list[str]:
    """What is otherwise than it should be after a reload with (``line``) or without a mistake."""
    found = []
    expected = "config_reload_failed" if line else "config_reloaded"
    if event["message"] != expected:
        found.append(f"{event['message']} {event.get('problems')}")
    if line and not str(event.get("problems", [""])[0]).startswith(f"{charon.config_path}:{line}: limits.max_headers"):
        found.append(f"told as {event.get('problems')}")
    for _ in range(4):
        with RawClient(charon.port("web")) as client:
            generation = client.get("/").get("X-Generation")
        if generation != str(good):
            found.append(f"answered by {generation} instead of {good}")
    told = status(charon)
    if told["last_reload"]["ok"] != (not line) or not told["ready"]:
        found.append(f"the status tells {told['last_reload']}, ready: {told['ready']}")
    if any(worker["generation"] != told["generation"] for worker in told["workers"]):
        found.append(f"workers at {[worker['generation'] for worker in told['workers']]} of {told['generation']}")
    successful = sample(charon.metrics(), "charon_config_last_reload_successful")
    if successful != (not line):
        found.append(f"the metric says {successful}")
    return found


@fault(
    "websockets",
    setup="A thousand WebSockets through one route.",
    wrong=f"{_TUNNELS_RELOADS} reloads that touch other routes, other listeners and another service.",
    passes="None is dropped: after each reload every one gives back what is sent through it.",
    short=Size(count=1000),
    full=Size(count=1000),
)
def websockets(stage: Stage) -> None:
    backend = stage.backend()
    charon = stage.charon(_beside(backend.address, 0))
    tunnels = stage.tunnels(charon.port("web"), stage.size.count)
    lost: list[str] = []
    for number in range(1, min(_TUNNELS_RELOADS, stage.size.count // 10) + 1):
        event, _ = reload(charon, _beside(backend.address, number))
        found = tunnels.echo()
        if event["message"] != "config_reloaded" or found["echoed"] != stage.size.count:
            lost.append(f"{event['message']}: {found['echoed']}")
    ended = len(tunnels.tell()["ended"])
    stage.check("WebSockets ended", ended, "0", not ended)
    stage.check("reloads after which not all echoed", ", ".join(lost) or "0", "0", not lost)
    told = status(charon)
    connections, draining = told["connections"], told["draining_connections"]
    good = connections >= stage.size.count and not draining
    stage.check("connections, draining ones in the status", f"{connections}, {draining}", ">= all, 0", good)


def _beside(backend: str, number: int) -> dict[str, Any]:
    """A configuration in which everything but the tunnels' route differs with ``number``."""
    routes = [
        {"path_prefix": "/tunnel", "service": "app"},
        {"path_prefix": f"/other-{number}", "service": "other", "timeout": f"{number + 1}s"},
    ]
    others = {**service("app", backend), **service("other", backend, timeouts={"idle": f"{number + 10}s"})}
    listeners = [listener("other", "web", routes=routes)]
    if number % 2:
        listeners.append(listener("other", f"more-{number}"))
    return {"services": others, "listeners": listeners}
