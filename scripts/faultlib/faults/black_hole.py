from __future__ import annotations

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import Stage, service, tally
from tests.harness.backends import black_hole as make_black_hole

_TIMEOUT = 0.5
_OFF = {"circuit_breaker": {"enabled": False}, "health_check": {"enabled": False, "passive_failures": 0}}


@fault(
    "black-hole",
    setup="Three routes: to an upstream that works, and twice to one whose connections are never accepted, without "
    "and with breaker and health checks; connect timeout 500 ms.",
    wrong="Connecting neither succeeds nor fails: packets are dropped.",
    passes="504 connect_timeout at 500 ms, 50 more or less, or 503 at once where there is a breaker; the p99 of the "
    "working route stays what it is (at most half as much again and 2 ms).",
    short=Size(seconds=8),
    full=Size(seconds=60),
)
def black_hole(stage: Stage) -> None:
    backend = stage.backend()
    bare, guarded = stage.enter(make_black_hole()), stage.enter(make_black_hole())
    routes = [{"path_prefix": f"/{name}", "service": name} for name in ("bare", "guarded")]
    charon = stage.charon(
        {
            "circuit_breaker": {},
            "health_check": {},
            "services": {
                **service("works", backend.address),
                **service("bare", bare, **_OFF),
                **service("guarded", guarded),
            },
            "timeouts": {"connect": f"{_TIMEOUT:g}s"},
            "listeners": [
                {"name": "web", "address": "127.0.0.1:0", "target_service_name": "works", "routes": routes},
            ],
        }
    )
    port, part = charon.port(), stage.size.seconds / 4
    streams = [Stream("works", port, 200, 4 * part)]
    for number in (1, 3):  # on in every second quarter: neighbours in time share the machine's mood
        for name in ("bare", "guarded"):
            streams.append(Stream(name, port, 40, part - _TIMEOUT, start=number * part, path=f"/{name}"))
    load = stage.load(*streams)
    answers = load.answers()
    hit = [answer for answer in answers if answer.stream == "bare"]
    waits = [answer.done - answer.sent for answer in hit]
    stage.check(
        "black hole without a breaker", f"{len(hit)} ({tally(hit)})", "all 504", all(a.status == 504 for a in hit)
    )
    shortest, longest = min(waits), max(waits)
    stage.check(
        "answered after", f"{milliseconds(shortest)} to {milliseconds(longest)}", "450 to 550 ms",
        abs(shortest - _TIMEOUT) <= 0.05 and abs(longest - _TIMEOUT) <= 0.05,
    )  # fmt: skip
    spared = [answer for answer in answers if answer.stream == "guarded"]
    known = [answer for answer in spared if answer.sent > load.began + part + 2 * _TIMEOUT]
    slow = [answer for answer in known if answer.status != 503]
    stage.check("with one, once it has opened", tally(known), "all 503", not slow)
    works = [answer for answer in answers if answer.stream == "works"]
    bad = [answer for answer in works if answer.status != 200]
    stage.check("working route without 200", f"{len(bad)} of {len(works)}", "0", not bad)

    def p99(phases: tuple[int, int]) -> float:
        chosen: list[Answer] = [a for a in works if int((a.due - load.began) / part) in phases]
        return percentile([answer.latency for answer in chosen], 99)

    without, beside = p99((0, 2)), p99((1, 3))
    stage.tell("p99 of the working route without", milliseconds(without))
    stage.check(
        "p99 of the working route beside", milliseconds(beside), "<= 1.5 x + 2 ms", beside <= 1.5 * without + 0.002
    )
