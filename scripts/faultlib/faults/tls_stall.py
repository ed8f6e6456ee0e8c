from __future__ import annotations

from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, eventually, listener, service, tally

_RATE = 40
_CALM = 5.0
_HANDSHAKE = 10.0
_LATE = 0.5
_BEGINNING = bytes.fromhex("160301020001")
"""The first bytes of a ClientHello of 512 bytes."""


@fault(
    "tls-stall",
    setup=f"A listener with TLS; {_RATE} connections a second with a handshake and a request each; "
    f"timeouts.tls_handshake is {_HANDSHAKE:g} s, as it comes.",
    wrong="1,000 connections send the first six bytes of a ClientHello and then nothing.",
    passes="Each is closed after tls_handshake; good connections are accepted at their rate meanwhile, half of them "
    "within twice the time that they took before.",
    short=Size(count=1000),
    full=Size(count=1000),
)
def tls_stall(stage: Stage) -> None:
    backend = stage.backend()
    tls = {"enabled": True, "client_auth": "none", "cert_dir": str(stage.folder())}
    charon = stage.charon({"services": service("app", backend.address), "listeners": [listener("app", tls=tls)]})
    load = stage.load(Stream("good", charon.port(), _RATE, _CALM + _HANDSHAKE + 4, fresh=True, tls=True))
    load.wait_until(_CALM)
    began = monotonic()
    crowd = stage.crowd(charon.port(), stage.size.count, _BEGINNING)
    stage.tell("connected in", f"{monotonic() - began:.1f} s")
    found = eventually(lambda: crowd.order("tell"), lambda told: not told["open"], _HANDSHAKE + 4)
    stage.check("stalled connections left", found["open"], "0", not found["open"])
    longest, bound = found["longest"], _HANDSHAKE + _LATE
    stage.check("longest life of one", f"{longest:.2f} s", f"<= {bound:g} s", longest <= bound)
    answers = load.answers()
    bad = [answer for answer in answers if answer.status != 200]
    stage.check(f"good connections without 200, of {len(answers)}", f"{len(bad)} ({tally(bad)})", "0", not bad)
    before = [answer.latency for answer in answers if 1 < answer.due - load.began < _CALM]
    during = [answer.latency for answer in answers if began < answer.due < began + _HANDSHAKE]
    done = sum(began < answer.done < began + _HANDSHAKE for answer in answers) / _HANDSHAKE
    stage.check(
        "good connections a second meanwhile", f"{done:.1f}", f"{_RATE:g} within 5 %", abs(done / _RATE - 1) < 0.05
    )
    usual, now = percentile(before, 50), percentile(during, 50)
    stage.check(
        "p50 of handshake and request", f"{milliseconds(usual)} -> {milliseconds(now)}", "< 2x", now < 2 * usual
    )
    stage.tell("p99", f"{milliseconds(percentile(before, 99))} -> {milliseconds(percentile(during, 99))}")
