from __future__ import annotations

import signal
from time import monotonic

from scripts.faultlib.fault import Size, fault
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, eventually, listener, service, status, tally

_DRAIN = 6.0
_TUNNELS = 50
_ANSWER = 3.0
"""Seconds that the upstream takes: longer than it takes to start all requests, shorter than the drain timeout."""


@fault(
    "drain",
    setup=f"{_TUNNELS} WebSockets, and requests whose answers take {_ANSWER:g} s, all under way at the same time.",
    wrong=f"SIGTERM; drain_timeout is {_DRAIN:g} s.",
    passes="All 500 requests are answered; WebSockets go on for at least half of the drain timeout; Charon says that "
    "it drains; it exits with 0 within the drain timeout and 1 s.",
    short=Size(count=500),
    full=Size(count=500),
)
def drain(stage: Stage) -> None:
    count = stage.size.count
    backend = stage.backend(delay=_ANSWER)
    charon = stage.charon(
        {
            "drain_timeout": f"{_DRAIN:g}s",
            "timeouts": {"response_headers": "30s"},
            "services": service("app", backend.address),
            "listeners": [listener("app")],
        }
    )
    tunnels = stage.tunnels(charon.port(), _TUNNELS)
    load = stage.load(Stream("get", charon.port(), count, 1.0))
    arrived = eventually(lambda: len(backend.tell()["requests"]), lambda seen: seen == count + _TUNNELS, 5)
    stage.check("requests under way", arrived - _TUNNELS, f"{count}", arrived == count + _TUNNELS)
    before = status(charon)
    held = before["connections"]
    stage.check("connections that the status tells", held, f">= {count + _TUNNELS}", held >= count + _TUNNELS)
    told = monotonic()
    charon.signal(signal.SIGTERM)
    charon.wait_for_event("shutting_down")
    during = status(charon)
    stage.check("the status says that it drains", during["draining"], "True", during["draining"] is True)
    code, _ = charon.admin("/readyz")
    stage.check("/readyz", code, "503", code == 503)
    answers = load.answers()
    bad = [answer for answer in answers if answer.status != 200]
    stage.check(f"requests without 200, of {len(answers)}", f"{len(bad)} ({tally(bad)})", "0", not bad)
    stage.tell("last answer after", f"{max(answer.done for answer in answers) - told:.2f} s")
    echoed = tunnels.echo()["echoed"]
    stage.check("WebSockets that still echo then", echoed, f"{_TUNNELS}", echoed == _TUNNELS)
    exit_code = charon.wait(_DRAIN + 10)
    took = monotonic() - told
    stage.check("exit status", exit_code, "0", exit_code == 0)
    stage.check("exit after", f"{took:.2f} s", f"<= {_DRAIN + 1:g} s", took <= _DRAIN + 1)
    ended = eventually(lambda: tunnels.tell()["ended"], lambda ends: len(ends) == _TUNNELS, 2)
    first, last = min(ended, default=told) - told, max(ended, default=told) - told
    stage.tell("WebSockets ended between", f"{first:.2f} s and {last:.2f} s")
    stage.check("first WebSocket ended after", f"{first:.2f} s", f">= {_DRAIN / 2:g} s", first >= _DRAIN / 2)
