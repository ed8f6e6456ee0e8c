from __future__ import annotations

from math import ceil

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, listener, service, tally
from tests.harness.charon import total

_RATE = 300
_RETRY = {"on": ["connect-failure", "reset", "503"], "attempts": 3, "backoff": "10ms"}


@fault(
    "retry-load",
    setup="Three upstreams, 300 GET a second; 503 is tried again up to three times, the budget as it comes (20 % and 3 "
    "in ten seconds), no breaker.",
    wrong="Each upstream answers 30 % with 503; then all of them everything.",
    passes="The upstreams see at most 1.2 times what is offered (and 3 for each ten seconds) in either case.",
    short=Size(seconds=10),
    full=Size(seconds=120),
)
def retry_load(stage: Stage) -> None:
    for share in (0.3, 1.0):
        _play(stage, share, stage.size.seconds / 2)


def _play(stage: Stage, share: float, seconds: float) -> None:
    backends = [stage.backend(failing=share, status=503) for _ in range(3)]
    charon = stage.charon(
        {
            "retry": _RETRY,
            "services": service("app", *(backend.address for backend in backends)),
            "listeners": [listener("app")],
        }
    )
    answers = stage.load(Stream("get", charon.port(), _RATE, seconds)).answers()
    seen = sum(len(backend.tell()["requests"]) for backend in backends)
    offered = len(answers)
    most = 1.2 * offered + 3 * ceil(seconds / 10 + 1)
    title = f"{share:.0%} of 503: "
    stage.check(
        f"{title}upstreams see", f"{seen} = {seen / offered:.3f} x {offered}", "<= 1.2 x (+3 per 10 s)", seen <= most
    )
    stage.tell(f"{title}answers", tally(answers))
    stage.tell(f"{title}p99", milliseconds(percentile([answer.latency for answer in answers], 99)))
    refused = total(charon.metrics(), "charon_http_retry_budget_exhausted_total")
    stage.tell(f"{title}retries that the budget refused", int(refused))
