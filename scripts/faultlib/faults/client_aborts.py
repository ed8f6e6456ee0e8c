from __future__ import annotations

import json
from collections.abc import Mapping

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.stage import Holdings, Stage, StageError, eventually, listener, service, transitions
from tests.harness.charon import CharonProcess, total
from tests.harness.client import RawClient

_SETTLED = 15.0
"""Seconds in which what the clients have left behind must be gone."""


@fault(
    "client-aborts",
    setup="One upstream, a breaker and passive health that three failures trip; fifty clients at once.",
    wrong="Clients leave in the head of the request, uploading, waiting and downloading; by close and by reset.",
    passes="After 10,000: breaker and health untouched; the upstream's connection ends within 1 s of each departure; "
    "descriptors and greenlets as before, memory within 2 MB for each process.",
    short=Size(count=4000),
    full=Size(count=10_000),
)
def client_aborts(stage: Stage) -> None:
    backend = stage.backend()
    charon = stage.charon(
        {
            "circuit_breaker": {},
            "health_check": {},
            "services": service("app", backend.address),
            "listeners": [listener("app")],
        }
    )
    abort(stage, charon, max(200, stage.size.count // 2))  # pools, buffers and the allocator find their size
    settle(charon, 1)
    before = Holdings(charon)
    left = abort(stage, charon, stage.size.count, "measured-")
    settle(charon, before.files)
    after = Holdings(charon)

    by_manner: dict[str, list[float]] = {}
    seen = backend.tell()
    gone: Mapping[str, float] = seen["left"]
    arrived = [name for _, _, name, _ in seen["requests"] if name in left]
    for name in set(arrived) & set(gone):
        kind, when = left[name]
        by_manner.setdefault(kind, []).append(gone[name] - when)
    stage.tell("requests given up", len(left))
    for kind, waits in sorted(by_manner.items()):
        text = f"{len(waits)}: p50 {milliseconds(percentile(waits, 50))}, most {milliseconds(max(waits))}"
        stage.check(f"upstream ended after leaving {kind}", text, "< 1 s", max(waits) < 1)
    missing = set(arrived) - set(gone)
    stage.check("upstream connections that go on", len(missing), "0", not missing)
    twice = len(arrived) - len(set(arrived))
    stage.check("requests tried again for a client that left", twice, "0", not twice)
    changes = sum(transitions(charon, state) for state in ("open", "half_open", "closed"))
    stage.check("breaker transitions", changes, "0", not changes)
    words = ("upstream_error", "circuit_breaker", "internal_error")
    lines = [line for line in charon.log_lines() if line["message"] in words or line.get("by") == "traffic"]
    stage.check("health changes, upstream errors, internal errors", len(lines), "0", not lines)
    with RawClient(charon.port()) as client:
        status = client.get("/").status
    stage.check("a request afterwards", status, "200", status == 200)
    stage.check("descriptors", f"{before.files} -> {after.files}", "as before", after.files <= before.files)
    stage.check(
        "greenlets", f"{before.greenlets} -> {after.greenlets}", "as before", after.greenlets <= before.greenlets
    )
    growth, most = (after.memory - before.memory) / 1e6, 2.0 * len(before.pids)
    stage.check("memory (RSS)", f"{before.memory / 1e6:.1f} {growth:+.1f} MB", f"< +{most:g} MB", growth < most)


def abort(
    stage: Stage, charon: CharonProcess, count: int, prefix: str = "warm-", listener: str | None = None
) -> dict[str, tuple[str, float]]:
    """So many clients come and leave; which request was given up in which way, and when."""
    result = stage.folder() / "left"
    program = stage.program("aborter", str(charon.port(listener)), str(count), str(result), prefix)
    if program.line() != "done\n":
        raise StageError("the clients did not leave as they should")
    program.end()
    left: dict[str, tuple[str, float]] = json.loads(result.read_text())
    return left


def settle(charon: CharonProcess, files: int) -> None:
    """Until nothing is under way any more, and there are at most so many descriptors (or time is up)."""

    def busy() -> float:
        return total(charon.metrics(), "charon_http_requests_in_flight")

    eventually(busy, lambda count: not count, _SETTLED)
    eventually(lambda: Holdings(charon).files, lambda count: count <= files, 3.0)
