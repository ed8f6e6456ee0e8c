from __future__ import annotations

from collections import Counter

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, listener, service, tally

_RATE = 1200


@fault(
    "idle-closed",
    setup="One upstream; GET and POST at random moments; breaker and health checks as they come.",
    wrong="The upstream closes idle kept-alive connections at random, up to 2 ms deaf before: requests run into it.",
    passes="5,000 such ends: no GET is answered with 5xx, no POST reaches the upstream twice.",
    short=Size(count=5000),
    full=Size(count=5000),
)
def idle_closed(stage: Stage) -> None:
    backend = stage.backend(idle=0.004, deaf=0.002)
    charon = stage.charon(
        {
            "circuit_breaker": {},
            "health_check": {},
            "services": service("app", backend.address),
            "listeners": [listener("app")],
        }
    )
    seconds = stage.size.count * 3 / _RATE
    load = stage.load(
        Stream("get", charon.port(), _RATE / 2, seconds, poisson=True),
        Stream("post", charon.port(), _RATE / 2, seconds, method="POST", body=50, poisson=True),
    )
    answers = load.answers()
    seen = backend.tell()
    ends, races = seen["idle_closed"], seen["races"]
    stage.check("idle connections closed by the upstream", ends, f">= {stage.size.count}", ends >= stage.size.count)
    stage.tell("of them with a request on its way", races)
    gets = [answer for answer in answers if answer.method == "GET"]
    posts = [answer for answer in answers if answer.method == "POST"]
    bad = [answer for answer in gets if answer.status != 200]
    stage.check(f"GET without 200 (of {len(gets)})", f"{len(bad)} ({tally(bad)})", "0", not bad)
    deliveries = Counter(name for _, method, name, _ in seen["requests"] if method == "POST")
    twice = [name for name, count in deliveries.items() if count > 1]
    stage.check(f"POST delivered twice (of {len(posts)})", len(twice), "0", not twice)
    failed = [answer for answer in posts if answer.status != 200]
    lost = [answer for answer in failed if answer.id in deliveries]
    stage.tell("POST that failed, as they may", f"{len(failed)} ({tally(failed)})")
    stage.check("POST that failed though delivered", len(lost), "0", not lost)
    stage.tell("p99", milliseconds(percentile([answer.latency for answer in answers], 99)))
