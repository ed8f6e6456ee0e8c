from __future__ import annotations

from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds
from scripts.faultlib.stage import Stage, eventually, listener, pause, service, status
from tests.harness.charon import CharonProcess, resident_bytes, total
from tests.harness.client import RawClient
from tests.harness.waiting import cpu_seconds

_EACH = 10_000
"""Connections of one process of clients: a process may hold a limited number of descriptors."""
_MOST_BYTES = 25_000
_DESCRIPTORS = 256
_TOO_MANY = 1500
_WATCH = 3.0


@fault(
    "idle-crowd",
    setup="limits.max_connections above the number; then another Charon that may have 256 descriptors a process.",
    wrong="20,000 connections that say nothing; then 1,500 to the one with few descriptors.",
    passes="Below 25 KB of memory (RSS) for each; at the limit accepting pauses: all processes together use below 20 % "
    "of a CPU, who is connected is served, and once there is room again so is everybody.",
    short=Size(count=20_000),
    full=Size(count=20_000),
)
def idle_crowd(stage: Stage) -> None:
    backend = stage.backend()
    config = {"services": service("app", backend.address), "listeners": [listener("app")]}
    charon = stage.charon({**config, "limits": {"max_connections": 100_000}, "timeouts": {"client_header": "5m"}})
    _many(stage, charon)
    _out_of_descriptors(stage, stage.charon(config, prefix=["prlimit", f"--nofile={_DESCRIPTORS}"]))


def _many(stage: Stage, charon: CharonProcess) -> None:
    count = stage.size.count
    stage.crowd(charon.port(), 200).order("close")  # buffers and the allocator find their size
    before = _memory(charon)
    for start in range(0, count, _EACH):
        stage.crowd(charon.port(), min(_EACH, count - start))
    held = eventually(lambda: status(charon)["connections"], lambda found: found >= count, 10)
    stage.check("idle connections", held, f">= {count}", held >= count)
    each = (_memory(charon) - before) / count
    stage.check("memory of the workers for each", f"{each / 1000:.1f} KB", "< 25 KB", each < _MOST_BYTES)
    began = monotonic()
    with RawClient(charon.port()) as client:
        code = client.get("/").status
    stage.check("a request meanwhile", f"{code} in {milliseconds(monotonic() - began)}", "200", code == 200)


def _out_of_descriptors(stage: Stage, charon: CharonProcess) -> None:
    with RawClient(charon.port()) as client:
        first = client.get("/").status
        crowd = stage.crowd(charon.port(), _TOO_MANY)
        pids = [charon.pid or 0, *charon.worker_pids()]
        pause(1)
        used = -sum(map(cpu_seconds, pids))
        pause(_WATCH)
        share = (used + sum(map(cpu_seconds, pids))) / _WATCH
        stage.check("CPU at the limit of descriptors", f"{share:.1%}", "< 20 %", share < 0.2)
        second = client.get("/").status
    stage.check("who was connected, before and at the limit", f"{first}, {second}", "200, 200", first == second == 200)
    held = status(charon)["connections"]
    stage.tell(f"connections held, of {_TOO_MANY}", held)
    errors = total(charon.metrics(), "charon_listener_accept_errors_total")
    stage.tell("accept errors counted", int(errors))
    began = monotonic()
    crowd.order("close")
    with RawClient(charon.port()) as client:
        code = client.get("/").status
    took = monotonic() - began
    stage.check(
        "a new connection once there is room", f"{code} in {milliseconds(took)}", "200, < 5 s", code == 200 and took < 5
    )


def _memory(charon: CharonProcess) -> int:
    return sum(map(resident_bytes, charon.worker_pids()))
