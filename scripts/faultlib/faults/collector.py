from __future__ import annotations

import signal
from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import Stage, listener, service, tally
from tests.harness.charon import total

_RATE = 300
_HANGS = 60.0


@fault(
    "collector",
    setup=f"Every request is traced and exported; {_RATE} requests a second.",
    wrong="In the second quarter of the time the collector is gone, in the fourth it takes connections and does not "
    "answer, until after the end.",
    passes="All requests are answered; their p99 stays what it is (at most half as much again and 2 ms). Dropped spans "
    "are counted, others are exported, and stopping takes at most 2 s for the sake of the collector.",
    short=Size(seconds=20),
    full=Size(seconds=120),
)
def collector(stage: Stage) -> None:
    backend, taker = stage.backend(), stage.backend()
    charon = stage.charon(
        {
            "services": service("works", backend.address),
            "listeners": [listener("works")],
            "tracing": {"enabled": True, "otlp_endpoint": f"http://{taker.address}/v1/traces"},
        }
    )
    part = stage.size.seconds / 4
    load = stage.load(Stream("works", charon.port(), _RATE, 4 * part))
    load.wait_until(part)
    taker.kill()
    load.wait_until(2 * part)
    taker = stage.backend(taker.port)
    load.wait_until(3 * part)
    taker.behave(delay=_HANGS)
    answers = load.answers()
    bad = [answer for answer in answers if answer.status != 200]
    stage.check("requests without 200", f"{len(bad)} of {len(answers)} ({tally(bad)})", "0", not bad)

    def p99(phases: tuple[int, ...]) -> float:
        chosen: list[Answer] = [a for a in answers if int((a.due - load.began) / part) in phases]
        return percentile([answer.latency for answer in chosen], 99)

    with_it, gone, hanging = p99((0, 2)), p99((1,)), p99((3,))
    bound = 1.5 * with_it + 0.002
    stage.tell("p99 with the collector", milliseconds(with_it))
    stage.check("p99 while it is gone", milliseconds(gone), "<= 1.5 x + 2 ms", gone <= bound)
    stage.check("p99 while it hangs", milliseconds(hanging), "<= 1.5 x + 2 ms", hanging <= bound)
    metrics = charon.metrics()
    exported = int(total(metrics, "charon_trace_spans_exported_total"))
    dropped = int(total(metrics, "charon_trace_spans_dropped_total"))
    stage.check("spans exported", f"{exported} of {2 * len(answers)}", "> 0", exported > 0)
    stage.check("spans dropped and counted", dropped, "> 0", dropped > 0)
    began = monotonic()
    charon.signal(signal.SIGTERM)
    code = charon.wait()
    took = monotonic() - began
    stage.check("stopping, while it hangs", f"{took:.1f} s, exit {code}", "<= 3 s, exit 0", took <= 3.0 and code == 0)
