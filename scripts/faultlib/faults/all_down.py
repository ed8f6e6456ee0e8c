from __future__ import annotations

from datetime import datetime
from time import monotonic, time
from typing import Any

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, listener, service, tally


@fault(
    "all-down",
    setup="Two upstreams, 200 requests a second; breaker and health checks as they come.",
    wrong="Both are killed, and started again later.",
    passes="While they are down each answer is 503 with its reason (502 until they are set aside), in less than 10 ms; "
    "from 2 s after their return on every answer is 200.",
    short=Size(seconds=9),
    full=Size(seconds=60),
)
def all_down(stage: Stage) -> None:
    backends = [stage.backend(), stage.backend()]
    charon = stage.charon(
        {
            "circuit_breaker": {},
            "health_check": {},
            "services": service("app", *(backend.address for backend in backends)),
            "listeners": [listener("app")],
        },
        access_log=True,
    )
    seconds = stage.size.seconds
    load = stage.load(Stream("get", charon.port(), 200, seconds))
    load.wait_until(seconds * 0.2)
    killed = monotonic()
    gone = max(backend.kill() for backend in backends)
    gone_wall = time()
    load.wait_until(seconds * 0.6)
    returning = monotonic()
    for backend in backends:
        stage.backend(backend.port)
    back = monotonic()
    answers = load.answers()
    stage.tell("requests", len(answers))
    wrong = [a for a in answers if a.status != 200 and (a.done < killed or a.sent > back + 2)]
    stage.check("failed before, or 2 s after", f"{len(wrong)} ({tally(wrong)})", "0", not wrong)
    down = [a for a in answers if a.sent > gone and a.done < returning]
    late = [a for a in down if a.sent > gone + 1]
    stage.tell("answers while down", f"{len(down)} ({tally(down)})")
    strange = [a for a in down if a.status not in (502, 503) or not a.reason]
    stage.check("of them neither 502 nor 503, or without reason", len(strange), "0", not strange)
    other = [a for a in late if a.status != 503]
    stage.check("later than 1 s and not 503", f"{len(other)} ({tally(other)})", "0", not other)
    took = [a.done - a.sent for a in down]
    stage.tell(
        "answered after, at the client", f"p99 {milliseconds(percentile(took, 99))}, most {max(took) * 1e3:.1f} ms"
    )
    lines = [line for line in charon.log_lines("http_request") if line["status"] >= 500 and _began(line) > gone_wall]
    slowest = max((line["latency_ms"] for line in lines), default=0.0)
    stage.check("slowest of them, by the access log", f"{slowest:.1f} ms", "< 10 ms", slowest < 10)
    after = sorted((a for a in answers if a.sent > back), key=lambda a: a.sent)
    last_bad = max((a.done for a in after if a.status != 200), default=back)
    stage.check("last failure after the return", milliseconds(last_bad - back), "< 2 s", last_bad - back < 2)


def _began(line: dict[str, Any]) -> float:
    """When the request of an access line began (wall clock)."""
    return datetime.fromisoformat(line["timestamp"]).timestamp() - float(line["latency_ms"]) / 1000
