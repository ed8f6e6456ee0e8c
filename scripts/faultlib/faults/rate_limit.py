from __future__ import annotations

import json

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Holdings, Stage, listener, service
from tests.harness.client import RawClient

_LIMIT = 100
_OFFERED = (20, 50, 80, 100, 120, 150, 200, 300, 400, 600)
_KEYS = {"redirect": {"path": "/elsewhere"}, "path_prefix": "/"}


@fault(
    "rate-limit",
    setup=f"Ten routes with a limit of {_LIMIT}/s each (a bucket of {_LIMIT}), one upstream.",
    wrong=f"They are offered {', '.join(map(str, _OFFERED))} requests a second, all at the same time.",
    passes="Each lets through what is offered, or the limit and one bucket, within 2 %; the rest gets 429.",
    short=Size(seconds=10),
    full=Size(seconds=600),
)
def rate_limit(stage: Stage) -> None:
    backend = stage.backend()
    limit = {"requests_per_second": _LIMIT}
    routes = [{"path_prefix": f"/at-{rate}", "service": "app", "rate_limit": limit} for rate in _OFFERED]
    charon = stage.charon(
        {"services": service("app", backend.address), "listeners": [listener("app", routes=routes)]},
    )
    port, seconds = charon.port(), stage.size.seconds
    streams = [Stream(f"at {rate}/s", port, rate, seconds, path=f"/at-{rate}") for rate in _OFFERED]
    answers = stage.load(*streams).answers()
    for stream in streams:
        own = [answer for answer in answers if answer.stream == stream.name]
        span = max(a.sent for a in own) - min(a.sent for a in own)
        passed = sum(1 for answer in own if answer.status == 200)
        due = min(len(own), _LIMIT * span + _LIMIT)
        stage.check(
            f"let through {stream.name}",
            f"{passed} of {len(own)}",
            f"{due:.0f} within 2 %",
            abs(passed - due) <= 0.02 * due,
        )
    strange = [answer for answer in answers if answer.status not in (200, 429)]
    stage.check("neither 200 nor 429", len(strange), "0", not strange)
    p99 = percentile([answer.done - answer.sent for answer in answers if answer.status == 429], 99)
    stage.tell("429 answered in p99", milliseconds(p99))


@fault(
    "rate-limit-keys",
    setup="A listener whose limit is 1/s for each value of a header, answering by itself.",
    wrong="A million requests, each with a value of its own.",
    passes="All pass, the memory of all processes grows by less than 64 MB, and the limit still holds for one value.",
    short=Size(count=100_000),
    full=Size(count=1_000_000),
)
def rate_limit_keys(stage: Stage) -> None:
    limit = {"requests_per_second": 1, "key": "header:X-Key"}
    charon = stage.charon(
        {"listeners": [{"name": "web", "address": "127.0.0.1:0", "rate_limit": limit, "routes": [_KEYS]}]},
    )
    _flood(stage, charon.port(), 5000, each=5000)  # code paths and buffers, by one key
    before = Holdings(charon)
    statuses = _flood(stage, charon.port(), stage.size.count, each=1)
    after = Holdings(charon)
    passed = statuses.get("302", 0)
    stage.check("keys that passed", f"{passed} of {stage.size.count}", "all", statuses == {"302": stage.size.count})
    growth = (after.memory - before.memory) / 1e6
    stage.check("memory of all processes (RSS)", f"{before.memory / 1e6:.1f} {growth:+.1f} MB", "< +64 MB", growth < 64)
    with RawClient(charon.port()) as client:
        again = [client.get("/", "X-Key: the same").status for _ in range(20)]
    stage.check("one value, twenty times", f"{again.count(302)} passed", "1 or 2", again.count(302) in (1, 2))


def _flood(stage: Stage, port: int, count: int, *, each: int) -> dict[str, int]:
    statuses: dict[str, int] = json.loads(stage.program("keys", str(port), str(count), str(each)).line())
    return statuses
