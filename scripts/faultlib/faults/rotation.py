from __future__ import annotations

import io
import json
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from charon.cli.main import main as charon_command
from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import Stage, StageError, eventually, listener, service, status, tally
from tests.harness.charon import CharonProcess

_SHARES = {"mesh": 0.8, "direct": 0.15, "own": 0.05}
"""How many of the connections, --count a second, come to these listeners."""

_DOMAIN = "example.org"
_IN_FORCE = 3.0
"""Seconds in which a new file is in force everywhere: docs/certificates.md says two, and a busy machine is slow."""


class _Machines:
    """The folders of certificates: ``ca``, where the authority is, and those of ``a``, ``b`` and ``callers``, which get
    theirs from there."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.a, self.b = (folder / name for name in ("ca", "a", "b"))
        self.issued = 0
        self._folder = folder
        self._certs("init", "--trust-domain", _DOMAIN)
        self.callers = self.renew()

    def renew(self) -> Path:
        """New certificates for all; where the callers' are, another folder each time, as they read them once."""
        self.issued += 1
        self.callers = self._folder / f"callers-{self.issued}"
        for name, folder in (("a", self.a), ("b", self.b), ("caller", self.callers)):
            self._certs("issue", name, "--out", str(folder), "--lifetime", "1m", "--dns", "localhost")
        return self.callers

    def step(self, name: str) -> None:
        """A step towards another root."""
        self._certs("rotate", "--root", name)
        if name == "activate":
            self._certs("rotate")

    def _certs(self, command: str, *arguments: str) -> None:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = charon_command(["certs", command, *arguments, "--dir", str(self.ca)])
        if code:
            raise StageError(f"charon certs {command} {' '.join(arguments)}: {said.getvalue().strip()}")


@fault(
    "rotation",
    setup="Two Charons and an authority; --count GET a second. Four fifths are each on a new connection to the first, "
    "and a new one by mTLS from there to the second; the rest are by clients with certificates who call the second "
    "themselves. Nothing is tried again.",
    wrong="Every second all three get new certificates, of a minute's life; another listener has such that Charon "
    "renews by itself, of 10 s. Meanwhile another root takes over, in the three steps of docs/certificates.md.",
    passes="120 s, 300 a second: no handshake fails, and no request. At least every other certificate is seen, and in "
    "the end the new root alone is trusted.",
    short=Size(seconds=20, count=100),
    full=Size(seconds=120, count=300),
)
def rotation(stage: Stage) -> None:
    seconds = stage.size.seconds
    if seconds < 4 * _IN_FORCE:
        raise StageError(f"between two steps there must be {_IN_FORCE:g} s: --seconds {4 * _IN_FORCE:g} or more")
    steps = {round(seconds / 4): "prepare", round(seconds / 2): "activate", round(seconds * 3 / 4): "retire"}
    machines = _Machines(stage.folder())
    first, second = _charons(stage, machines)
    before = _roots(first) | _roots(second)
    rates = {name: stage.size.count * share for name, share in _SHARES.items()}
    load = stage.load(Stream("mesh", first.port(), rates["mesh"], seconds, fresh=True))
    who = f"spiffe://{_DOMAIN}/b"
    callers = [
        stage.program("callers", str(second.port(name)), str(rates[name]), str(seconds), who, str(machines.callers))
        for name in ("direct", "own")
    ]
    for number in range(1, int(seconds)):
        load.wait_until(number)
        if number in steps:
            machines.step(steps[number])
        folder = machines.renew()
        for program in callers:
            program.say(f"use {folder}")
    _judge_requests(stage, load.answers())
    calls = []
    for program in callers:
        program.say("tell")
        calls.append(json.loads(program.line()))
    _judge_calls(stage, calls, machines.issued)
    _judge_handshakes(stage, second)
    _judge_certificates(stage, first, second)
    roots = eventually(lambda: _roots(first) | _roots(second), lambda found: len(found) == 1, 2 * _IN_FORCE)
    good = len(before) == len(roots) == 1 and before != roots
    stage.check("roots trusted before, in the end", f"{len(before)}, {len(roots)}", "1, another 1", good)


def _charons(stage: Stage, machines: _Machines) -> tuple[CharonProcess, CharonProcess]:
    backend = stage.backend()

    def tls(folder: Path, **more: Any) -> dict[str, Any]:
        return {"enabled": True, "trust_domain": _DOMAIN, "service": "b", "cert_dir": str(folder), **more}

    def allowed(name: str, folder: Path, **more: Any) -> dict[str, Any]:
        return tls(folder, allowed_identities=[f"spiffe://{_DOMAIN}/{name}"], **more)

    # It is about certificates: a machine that is too busy for the load makes nothing fail.
    patient = {"overload": {"max_loop_lag": "none"}, "timeouts": {"connect": "15s", "tls_handshake": "15s"}}
    # With PROXY headers connections are not shared: each request makes one, and a handshake.
    proxied = {"accept": ["127.0.0.1"]}
    second = stage.charon(
        {
            **patient,
            "services": service("app", backend.address),
            "listeners": [
                listener("app", "mesh", tls=allowed("a", machines.b), proxy_protocol=proxied),
                listener("app", "direct", tls=allowed("caller", machines.b)),
                listener("app", "own", tls=allowed("caller", machines.ca, lifetime="10s")),
            ],
        }
    )
    first = stage.charon(
        {
            **patient,
            "retry": {"attempts": 0},
            "tls": {"trust_domain": _DOMAIN, "service": "a", "cert_dir": str(machines.a), "upstream_tls": True},
            "services": service("b", f"127.0.0.1:{second.port('mesh')}", proxy_protocol="v2"),
            "listeners": [listener("b")],
        }
    )
    return first, second


def _roots(charon: CharonProcess) -> set[str]:
    return {row["serial"] for row in status(charon)["certificates"] if row["kind"] == "authority"}


def _judge_requests(stage: Stage, answers: list[Answer]) -> None:
    bad = [answer for answer in answers if answer.status != 200]
    stage.check(f"requests without 200, of {len(answers)}", f"{len(bad)} ({tally(bad)})", "0", not bad)
    # Whoever takes longer than from one step to the next may be refused for good reason.
    latencies = [answer.latency for answer in answers]
    middle, late = milliseconds(percentile(latencies, 50)), milliseconds(percentile(latencies, 99))
    stage.tell(f"p50, p99 of them; steps are {stage.size.seconds / 4:g} s apart", f"{middle}, {late}")


def _judge_calls(stage: Stage, calls: list[dict[str, Any]], issued: int) -> None:
    failures: Counter[str] = Counter()
    for told in calls:
        failures.update(told["failures"])
    words = ", ".join(f"{what}: {count}" for what, count in failures.most_common(3)) or "none"
    count = sum(told["calls"] for told in calls)
    stage.check(f"calls that failed, of {count}", f"{failures.total()} ({words})", "0", not failures)
    # It looks at its files each second, and so may see two new ones at once.
    seen = len(calls[0]["serials"])
    stage.check(f"certificates that were shown, of {issued}", seen, f">= {issued // 2}", seen >= issued // 2)
    stage.tell("certificates that it renewed itself and showed", len(calls[1]["serials"]))


def _judge_handshakes(stage: Stage, charon: CharonProcess) -> None:
    results: Counter[str] = Counter()
    for (name, labels), value in charon.metrics().items():
        if name == "charon_tls_handshakes_total":
            results[dict(labels)["result"]] += int(value)
    failed = results.total() - results["ok"] - results["resumed"]
    told = ", ".join(f"{result}: {count}" for result, count in results.most_common())
    stage.check(f"handshakes that failed, of {results.total()}", f"{failed} ({told})", "0", not failed)


def _judge_certificates(stage: Stage, first: CharonProcess, second: CharonProcess) -> None:
    lines = [line for charon in (first, second) for line in charon.log_lines()]
    events = Counter(line["message"] for line in lines)
    by_hand = sum(line["message"] == "certificate_renewed" and line["why"] == "the files changed" for line in lines)
    alone = events["certificate_renewed"] - by_hand
    stage.tell("certificates read anew, renewed by itself", f"{by_hand}, {alone}")
    problems = [line for line in lines if line["message"] in ("certificate_failed", "certificate_expiring")]
    stage.check("certificates said to be bad", problems[0] if problems else 0, "0", not problems)
