from __future__ import annotations

from datetime import datetime
from time import monotonic, time

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, listener, service, tally


@fault(
    "upstream-killed",
    setup="Three upstreams that take 20 ms; GET and POST in an open loop, breaker and health checks as they come.",
    wrong="One upstream is killed (kill -9) under load.",
    passes="No GET fails; a POST fails only if it was in flight at that moment; the upstream is set aside within 1 s.",
    short=Size(seconds=8),
    full=Size(seconds=60),
)
def upstream_killed(stage: Stage) -> None:
    backends = [stage.backend(delay=0.02) for _ in range(3)]
    charon = stage.charon(
        {
            "circuit_breaker": {},
            "health_check": {},
            "services": service("app", *(backend.address for backend in backends)),
            "listeners": [listener("app")],
        }
    )
    seconds = stage.size.seconds
    load = stage.load(
        Stream("get", charon.port(), 300, seconds, poisson=True),
        Stream("post", charon.port(), 150, seconds, method="POST", body=100, poisson=True),
    )
    load.wait_until(seconds / 2)
    killed, wall = monotonic(), time()
    gone = backends[0].kill()
    answers = load.answers()
    bad = {
        method: [answer for answer in answers if answer.method == method and answer.status != 200]
        for method in ("GET", "POST")
    }
    in_flight = [a for a in answers if a.method == "POST" and a.sent <= gone and a.done >= killed]
    unexcused = [answer for answer in bad["POST"] if answer not in in_flight]
    stage.tell("requests", f"{len(answers)} at 450/s, p99 {milliseconds(percentile([a.latency for a in answers], 99))}")
    stage.check("GET without 200", f"{len(bad['GET'])} ({tally(bad['GET'])})", "0", not bad["GET"])
    stage.check(
        "POST without 200",
        f"{len(bad['POST'])} ({tally(bad['POST'])})",
        f"<= {len(in_flight)} in flight",
        len(bad["POST"]) <= len(in_flight),
    )
    stage.check("POST failed that were not in flight", len(unexcused), "0", not unexcused)
    aside = [
        datetime.fromisoformat(line["timestamp"]).timestamp() - wall
        for line in charon.log_lines()
        if line.get("upstream") == backends[0].address
        and (line["message"] == "health_change" or (line["message"], line.get("state")) == ("circuit_breaker", "open"))
    ]
    took = min(aside, default=999.0)
    stage.check("set aside after", milliseconds(took), "< 1 s", took < 1)
    late = [a for a in answers if a.due > gone + 1]
    p99 = percentile([answer.latency for answer in late], 99)
    stage.tell("p99 from 1 s after the kill on", milliseconds(p99))
