from __future__ import annotations

from scripts.faultlib.fault import Size, fault
from scripts.faultlib.faults.client_aborts import abort, settle
from scripts.faultlib.faults.reloads import reload
from scripts.faultlib.stage import Holdings, Stage, listener, service

_ABORTS_FOR_EACH = 100
_WITHIN = 0.05


@fault(
    "leaks",
    setup="One upstream; the configuration has a listener and a service that come and go.",
    wrong="100 reloads, and a hundred clients that leave amid their request after each.",
    passes="After 100 reloads and 10,000 such requests descriptors, greenlets and memory of all processes are within "
    "5 % of where they were.",
    short=Size(count=30),
    full=Size(count=100),
)
def leaks(stage: Stage) -> None:
    backend = stage.backend()
    charon = stage.charon(_config(backend.address, 0))
    count = stage.size.count

    def play(rounds: int, name: str) -> Holdings:
        for number in range(rounds):
            reload(charon, _config(backend.address, number))
            abort(stage, charon, _ABORTS_FOR_EACH, f"{name}-{number}-", "web")
        reload(charon, _config(backend.address, 0))
        settle(charon, 1)
        return Holdings(charon)

    before = play(max(10, count // 5), "warm")  # pools, buffers and the allocator find their size
    after = play(count, "measured")
    for title, was, now, unit in (
        ("descriptors", before.files, after.files, 1),
        ("greenlets", before.greenlets, after.greenlets, 1),
        ("memory (RSS), MB", before.memory, after.memory, 1e6),
    ):
        good = now <= was * (1 + _WITHIN)
        stage.check(title, f"{was / unit:.6g} -> {now / unit:.6g} ({now / was - 1:+.1%})", "<= +5 %", good)


def _config(backend: str, number: int) -> dict[str, object]:
    services = service("app", backend, timeouts={"idle": f"{number + 10}s"})
    listeners = [listener("app", "web")]
    if number % 2:
        services |= service(f"more-{number}", backend)
        listeners.append(listener(f"more-{number}", "comes-and-goes"))
    return {"services": services, "listeners": listeners}
