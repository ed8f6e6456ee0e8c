from __future__ import annotations

from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Stream
from scripts.faultlib.stage import Stage, eventually, listener, service, tally

_RATE = 40
_CALM = 5.0
_HANDSHAKE = 10.0
_LATE = 0.5
_NOISE = 0.030
_BEGINNING = bytes.fromhex("160301020001")
"""The first bytes of a ClientHello of 512 bytes."""


@fault(
    "tls-stall",
    setup=f"A listener with TLS; {_RATE} connections a second with a handshake and a request each; "
    f"timeouts.tls_handshake is {_HANDSHAKE:g} s, as it comes.",
    wrong="1,000 connections send the first six bytes of a ClientHello and then nothing.",
    passes="Each is closed after tls_handshake; every good connection is accepted meanwhile, and their p99 is below "
    "twice what it was before, or 30 ms.",
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
    before = percentile([answer.latency for answer in answers if 1 < answer.due - load.began < _CALM], 99)
    during = percentile([answer.latency for answer in answers if began < answer.due < began + _HANDSHAKE], 99)
    most = max(2 * before, _NOISE)
    stage.tell("p99 of handshake and request before", milliseconds(before))
    stage.check(
        "p99 of handshake and request meanwhile", milliseconds(during), f"< {milliseconds(most)}", during < most
    )
