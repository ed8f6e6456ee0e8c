from __future__ import annotations

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import Stage, listener, service, tally
from tests.harness.client import RawClient

_LANES = 10
_TAKES = 0.025
_CAPACITY = _LANES / _TAKES
_CALM = 6.0
_AFTER = 10.0
_LEARNS = 5.0
"""Seconds of too much in which the limit is found; what happens in them is told apart."""
_RECOVERS = 5.0


@fault(
    "overload",
    setup=f"An upstream that can answer {_CAPACITY:g} requests a second ({_LANES} at a time, others wait), a service "
    "with limits.adaptive_concurrency; half of the capacity is offered.",
    wrong="Three times the capacity, in an open loop; then half of it again.",
    passes="At least 90 % of the capacity is answered with 200; the rest with 503 and Retry-After; p99 of what is "
    "let through is below ten times the unloaded one; 5 s after the load has dropped nothing is refused any more.",
    short=Size(seconds=20),
    full=Size(seconds=300),
)
def overload(stage: Stage) -> None:
    backend = stage.backend(delay=_TAKES, lanes=_LANES)
    limits = {"adaptive_concurrency": {"enabled": True}}
    charon = stage.charon(
        {"services": service("app", backend.address, limits=limits), "listeners": [listener("app")]},
    )
    port, seconds = charon.port(), stage.size.seconds
    over = _CALM + seconds
    load = stage.load(
        Stream("calm", port, _CAPACITY / 2, over + _AFTER, poisson=True),
        Stream("flood", port, _CAPACITY * 2.5, seconds, start=_CALM, poisson=True),
    )
    load.wait_until(_CALM + seconds / 2)
    waits = _retry_after(port)
    answers = load.answers()
    began = load.began
    before = [answer for answer in answers if 1 < answer.due - began < _CALM]
    steady = [answer for answer in answers if _CALM + _LEARNS < answer.due - began < over]
    good = [answer for answer in steady if answer.status == 200]
    share = len(good) / (seconds - _LEARNS) / _CAPACITY
    stage.check("answered with 200, of the capacity", f"{share:.1%}", ">= 90 %", share >= 0.9)
    shed = [answer for answer in steady if answer.status != 200]
    clean = bool(shed) and all((answer.status, answer.reason) == (503, "overloaded") for answer in shed)
    stage.check("the others", tally(shed), "503 overloaded", clean)
    stage.check("refusals with Retry-After", f"{sum(waits)} of {len(waits)}", "all", bool(waits) and all(waits))
    unloaded, loaded = _p99(before), _p99(good)
    stage.tell("p99 of 200 unloaded; of refusals", f"{milliseconds(unloaded)}; {milliseconds(_p99(shed))}")
    stage.check("p99 of 200 under three times the load", milliseconds(loaded), f"< {milliseconds(10 * unloaded)}",
                loaded < 10 * unloaded)  # fmt: skip
    learning = [answer for answer in answers if _CALM < answer.due - began < _CALM + _LEARNS and answer.status == 200]
    stage.tell(f"p99 of 200 in the first {_LEARNS:g} s of it", milliseconds(_p99(learning)))
    late = [answer for answer in answers if answer.due - began > over and answer.status != 200]
    took = max((answer.due - began - over for answer in late), default=0.0)
    stage.check("last refusal after the load has dropped", f"{took:.2f} s", f"< {_RECOVERS:g} s", took < _RECOVERS)


def _retry_after(port: int) -> list[bool]:
    """Whether refusals that come now say when to come again."""
    found = []
    for _ in range(40):
        with RawClient(port) as client:
            answer = client.get("/")
        if answer.status == 503:
            found.append(answer.get("Retry-After") is not None)
    return found


def _p99(answers: list[Answer]) -> float:
    return percentile([answer.latency for answer in answers], 99)
