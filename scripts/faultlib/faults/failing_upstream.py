from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, eventually, listener, service, tally, transitions
from tests.harness.client import RawClient

_THRESHOLD = 5
_OPEN = 0.5
_CLIENTS = 40


@fault(
    "failing-upstream",
    setup=f"One upstream, one address; the breaker opens at {_THRESHOLD} failures for {_OPEN:g} s.",
    wrong="The upstream answers every request with 500, and later works again.",
    passes="Over many connections the breaker opens after exactly so many requests, once; then 503 at once; at most "
    "one request reaches the upstream in each open window; when it works again the next trial closes the breaker.",
    short=Size(seconds=6),
    full=Size(seconds=60),
)
def failing_upstream(stage: Stage) -> None:
    backend = stage.backend(failing=1.0)
    charon = stage.charon(
        {
            "circuit_breaker": {"failure_threshold": _THRESHOLD, "open_duration": f"{_OPEN:g}s"},
            "health_check": {},
            "services": service("app", backend.address),
            "listeners": [listener("app")],
        }
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(charon.port())) for _ in range(_CLIENTS)]
        statuses, waits = _ask(clients)
    seen = len(backend.tell()["requests"])
    opened = statuses.index(503) if 503 in statuses else -1
    stage.check(f"opens (over {_CLIENTS} connections) after", opened, f"{_THRESHOLD}", opened == _THRESHOLD)
    stage.check("requests at the upstream by then", seen, f"{_THRESHOLD}", seen == _THRESHOLD)
    stage.check("answers after it", sorted(set(statuses[opened:])), "[503]", set(statuses[opened:]) == {503})
    worst = max(waits[opened:])
    stage.check("slowest of them", milliseconds(worst), "< 10 ms", worst < 0.01)
    count = transitions(charon, "open")
    stage.check("transitions to open", count, "1", count == 1)

    load = stage.load(Stream("get", charon.port(), 300, stage.size.seconds))
    load.wait_until(stage.size.seconds * 0.75)
    backend.behave(failing=0.0)
    healed = monotonic()
    answers = load.answers()
    probes = [when for when, *_ in backend.tell()["requests"][seen:] if when < healed]
    gaps = [after - before for before, after in pairwise(probes)]
    shortest = min(gaps, default=0.0)
    stage.tell("trials while it fails, of 300 requests/s", len(probes))
    stage.check("least time between two trials", milliseconds(shortest), f">= {_OPEN:g} s", shortest >= _OPEN * 0.99)
    stage.check("transitions to open", transitions(charon, "open"), "1 + trials",
                transitions(charon, "open") == 1 + len(probes))  # fmt: skip
    during = [answer for answer in answers if answer.done < healed]
    shed = [answer.latency for answer in during if answer.status == 503]
    stage.tell("answers while it fails", f"{tally(during)}; 503 in p99 {milliseconds(percentile(shed, 99))}")
    good = min((answer.done for answer in answers if answer.status == 200), default=healed + 999)
    stage.check(
        "first 200 after it works", milliseconds(good - healed), f"< {_OPEN + 0.5:g} s", good - healed < _OPEN + 0.5
    )
    bad = [answer for answer in answers if answer.sent > good + 0.1 and answer.status != 200]
    stage.check("failed after that", f"{len(bad)} ({tally(bad)})", "0", not bad)
    closed = eventually(lambda: transitions(charon, "closed"), lambda count: count == 1, 2)
    stage.check("transitions to closed", closed, "1", closed == 1)


def _ask(clients: Sequence[RawClient]) -> tuple[list[int], list[float]]:
    """One request on each connection, one after the other; statuses and seconds."""
    statuses, waits = [], []
    for client in clients:
        began = monotonic()
        statuses.append(client.get("/").status)
        waits.append(monotonic() - began)
    return statuses, waits
