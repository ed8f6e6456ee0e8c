from __future__ import annotations

from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, eventually, listener, service, tally

_RATE = 200
_CALM = 5.0
_EVERY = 5.0
_HEADER = 10.0
_NOISE = 0.010
"""Seconds of p99 that are the machine's own."""


@fault(
    "slowloris",
    setup=f"{_RATE} GET a second in an open loop; timeouts.client_header is {_HEADER:g} s, as it comes.",
    wrong="2,000 connections, a thousand new ones a second, send the head of a request, "
    f"one byte every {_EVERY:g} s.",
    passes="Each is ended within client_header and 1 s; no good request fails, and their p99 is below twice what it "
    "was before, or 10 ms.",
    short=Size(count=2000),
    full=Size(count=2000),
)
def slowloris(stage: Stage) -> None:
    backend = stage.backend()
    charon = stage.charon({"services": service("app", backend.address), "listeners": [listener("app")]})
    load = stage.load(Stream("good", charon.port(), _RATE, _CALM + _HEADER + 5, poisson=True))
    load.wait_until(_CALM)
    began = monotonic()
    crowd = stage.crowd(charon.port(), stage.size.count, b"GET / HTTP/1.1\r\nHost: fault.test\r\nX-Slow: ", _EVERY)
    stage.tell("connected in", f"{monotonic() - began:.1f} s")
    found = eventually(lambda: crowd.order("tell"), lambda told: not told["open"], _HEADER + 5)
    stage.check("slow connections left", found["open"], "0", not found["open"])
    stage.check(
        "longest life of one", f"{found['longest']:.2f} s", f"<= {_HEADER + 1:g} s", found["longest"] <= _HEADER + 1
    )
    stage.tell("shortest life of one; answers", f"{found['shortest']:.2f} s; {found['statuses']}")
    answers = load.answers()
    bad = [answer for answer in answers if answer.status != 200]
    stage.check(f"good requests without 200, of {len(answers)}", f"{len(bad)} ({tally(bad)})", "0", not bad)
    before = percentile([answer.latency for answer in answers if 1 < answer.due - load.began < _CALM], 99)
    during = percentile([answer.latency for answer in answers if began < answer.due < began + _HEADER + 1], 99)
    bound = max(2 * before, _NOISE)
    stage.tell("p99 of good requests before", milliseconds(before))
    stage.check("p99 of good requests meanwhile", milliseconds(during), f"< {milliseconds(bound)}", during < bound)
