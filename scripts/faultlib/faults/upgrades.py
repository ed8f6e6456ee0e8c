from __future__ import annotations

from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, eventually, listener, pause, service, status, tally

_RATE = 500
_APART = 5.0
_TUNNELS = 20
_DRAIN = 3.0


@fault(
    "upgrades",
    setup=f"{_RATE} GET a second in an open loop, half of them on connections of their own, and some that take 1 s.",
    wrong=f"An upgrade in place (SIGUSR2) every {_APART:g} s; drain_timeout is {_DRAIN:g} s.",
    passes="Ten upgrades: no request fails, no connection is refused or reset; a WebSocket that was open before goes "
    "on until the drain timeout; the status tells of the predecessor, and the old program is gone afterwards.",
    short=Size(count=3),
    full=Size(count=10),
)
def upgrades(stage: Stage) -> None:
    backend, slow = stage.backend(), stage.backend(delay=1.0)
    charon = stage.charon(
        {
            "drain_timeout": f"{_DRAIN:g}s",
            "services": {**service("app", backend.address), **service("slow", slow.address)},
            "listeners": [listener("app", routes=[{"path_prefix": "/slow", "service": "slow"}])],
        }
    )
    port = charon.port()
    seconds = (stage.size.count + 1) * _APART
    load = stage.load(
        Stream("kept", port, _RATE / 2, seconds, poisson=True),
        Stream("fresh", port, _RATE / 2, seconds, fresh=True, poisson=True),
        Stream("slow", port, 20, seconds, path="/slow", poisson=True),
    )
    took, wrong = [], []
    for number in range(stage.size.count):
        load.wait_until((number + 0.5) * _APART)
        tunnels = stage.tunnels(port, _TUNNELS)
        old, began = charon.pid, monotonic()
        new = charon.upgrade()
        took.append(monotonic() - began)
        told = status(charon)
        if told["pid"] != new or not told["ready"] or (told["predecessor"] or {}).get("pid") != old:
            wrong.append(f"the status tells of {told['pid']} after {told['predecessor']}, not of {new} after {old}")
        if (echoed := tunnels.echo()["echoed"]) != _TUNNELS:
            wrong.append(f"{_TUNNELS - echoed} WebSockets were gone at once")
        pause(_DRAIN / 2 - 0.5)
        if (echoed := tunnels.echo()["echoed"]) != _TUNNELS:
            wrong.append(f"{_TUNNELS - echoed} WebSockets ended early")
    answers = load.answers()
    gone = eventually(lambda: status(charon)["predecessor"], lambda left: left is None, 2 * _DRAIN)
    bad = [answer for answer in answers if answer.status != 200]
    stage.check(f"requests without 200, of {len(answers)}", f"{len(bad)} ({tally(bad)})", "0", not bad)
    stage.tell("an upgrade took, most", milliseconds(max(took)))
    quick = [answer.latency for answer in answers if answer.stream != "slow"]
    stage.tell("p99, most", f"{milliseconds(percentile(quick, 99))}, {milliseconds(max(quick))}")
    stage.check("went otherwise than it should", "; ".join(wrong[:3]) or "nothing", "nothing", not wrong)
    stage.check("predecessor in the end", gone or "none", "none", gone is None)
