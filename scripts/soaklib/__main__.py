"""The command line: exits with 0 when the run passed, 1 when it did not, 2 for wrong usage."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from scripts.faultlib.fault import Fault, Report, Size, milliseconds, table
from scripts.faultlib.load import WRONG, Answer, Stream
from scripts.faultlib.stage import Holdings, LoadProcess, Stage, StageError, eventually
from scripts.soaklib import chart
from scripts.soaklib.trouble import Trouble, play
from scripts.soaklib.watch import Sample, growth, samples
from tests.harness.charon import total

_SHARE = 0.6
"""Of capacity."""

_WARM = 300.0
_SLOPE = 1e6
"""Bytes in ten minutes that a process may grow by, once it has been warm for :data:`_WARM` seconds."""

_SETTLES = 60.0
_WITHIN = 0.05
_STEP_SECONDS = 4.0
_FAST = 250
"""Milliseconds within which nearly all answers must come while a rate counts as carried."""

_SOAK = Fault(
    "soak",
    setup="Two workers, three backends; HTTP, mTLS and TCP at 60 % of capacity, every byte compared.",
    wrong="reloads, rotations, worker kills, flapping backends, clients that leave, slow clients",
    passes="no wrong answer, no failure without an explanation, nothing grows",
    short=Size(seconds=180),
    full=Size(seconds=1800),
    run=lambda stage: None,
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Everything goes wrong at once, for long.")
    parser.add_argument("--minutes", type=float, required=True, metavar="N", help="length of the run")
    parser.add_argument("--rate", type=float, metavar="R", help="requests a second (default: 60 %% of capacity)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the picture there (SVG)")
    parser.add_argument("--calm", action="store_true", help="nothing goes wrong: load alone, and none of it may fail")
    arguments = parser.parse_args()
    for name in ("minutes", "rate"):
        if getattr(arguments, name) is not None and getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be above 0")
    return arguments


def _streams(trouble: Trouble, rate: float, seconds: float, prefix: str = "") -> list[Stream]:
    """All kinds of traffic together. The ids of each begin with ``prefix`` and its name."""
    web, secure, relay = (trouble.charon.port(name) for name in ("web", "secure", "relay"))
    certificates = str(trouble.certificates)

    def stream(name: str, port: int, share: float, size: int, **more: Any) -> Stream:
        path = f"/sum/{size}"
        return Stream(name + prefix, port, rate * share, seconds, path=path, checked=True, poisson=True, **more)

    mutual = {"tls": True, "certificates": certificates}
    return [
        stream("get", web, 0.42, 2000),
        stream("post", web, 0.10, 100, method="POST", body=20_000),
        stream("fresh", web, 0.10, 500, fresh=True),
        stream("mtls", secure, 0.15, 1000, **mutual),
        stream("mtls-post", secure, 0.05, 10_000, method="POST", body=3000, **mutual),
        stream("mtls-fresh", secure, 0.02, 500, fresh=True, **mutual),
        stream("tcp", relay, 0.10, 5000, method="POST", body=5000),
        stream("tcp-fresh", relay, 0.06, 60_000, fresh=True),
    ]


def _share_below(counts: dict[str, int], limit: int) -> float:
    whole = sum(counts.values())
    return sum(count for value, count in counts.items() if int(value) <= limit) / whole if whole else 0.0


def _percentile(counts: dict[str, int], percent: float) -> float:
    """Seconds; a latency is known to the millisecond."""
    left = sum(counts.values()) * percent / 100
    for value in sorted(map(int, counts)):
        left -= counts[str(value)]
        if left <= 0:
            return value / 1000
    return 0.0


def _calibrate(stage: Stage, trouble: Trouble) -> float:
    """The highest rate at which every answer is right and nearly all are fast; found by steps of a half."""
    carried, rate = 0.0, 25.0
    while rate < 20_000:
        found = stage.load(*_streams(trouble, rate, _STEP_SECONDS, f"-at-{rate:.0f}"), keep="failures").result()
        if found["answers"] or _share_below(found["milliseconds"], _FAST) < 0.98:
            break
        carried, rate = rate, rate * 1.5
    if not carried:
        raise StageError(f"not even {rate:g} requests a second are carried: {found['answers'][:3]}")
    print(f"capacity about {carried:.0f} requests a second", file=sys.stderr)
    return carried


def _run(stage: Stage, arguments: argparse.Namespace) -> tuple[list[Sample], list[tuple[float, str]]]:
    trouble = Trouble(stage)
    before = Holdings(trouble.charon)  # nothing has been asked of it yet
    rate = arguments.rate or _SHARE * _calibrate(stage, trouble)
    stage.tell("rate", f"{rate:.0f} requests a second")
    began = monotonic()
    taken: list[Sample] = []
    streams = _streams(trouble, rate, arguments.minutes * 60)
    load = stage.load(*streams, keep="failures")
    play(
        trouble,
        arguments.minutes * 60,
        lambda: taken.extend(samples(trouble.charon, monotonic() - began)),
        arguments.calm,
    )
    trouble.calm()
    _judge_answers(stage, trouble, load, streams)
    after = _quiet(trouble, before)
    taken += samples(trouble.charon, monotonic() - began)
    _judge_holdings(stage, before, after, taken, arguments.minutes * 60)
    return taken, [(moment - began, what) for moment, what in trouble.history.marks]


def _quiet(trouble: Trouble, before: Holdings) -> Holdings:
    """What all processes hold when nothing is under way, once it is no more than ``before``."""

    def busy() -> float:
        return total(trouble.charon.metrics(), "charon_http_requests_in_flight")

    eventually(busy, lambda count: not count, _SETTLES)
    return eventually(
        lambda: Holdings(trouble.charon),
        lambda now: now.files <= before.files and now.greenlets <= before.greenlets,
        _SETTLES,
    )


def _judge_answers(stage: Stage, trouble: Trouble, load: LoadProcess, streams: list[Stream]) -> None:
    result, history = load.result(), trouble.history
    answers = [Answer(*item) for item in result["answers"]]
    good = sum(result["good"].values())
    stage.tell("right answers", good)
    for what, count in sorted(history.done.items()):
        stage.tell(f"  {what}", count)
    explained: Counter[str] = Counter()
    unexplained: list[Answer] = []
    for answer in answers:
        if why := history.explain(answer):
            explained[why] += 1
        else:
            unexplained.append(answer)
    for why, count in sorted(explained.items()):
        stage.tell(f"  failed: {why}", count)
    wrong = [answer for answer in answers if answer.reason.startswith(WRONG)]
    stage.check("wrong answers", len(wrong), "0", not wrong)
    rest = [answer for answer in unexplained if answer not in wrong]
    stage.check("failures without an explanation", len(rest), "0", not rest)
    for answer in [*wrong, *rest][:20]:
        stage.tell(f"  {answer.id} {answer.method} after {answer.latency:.3f} s", f"{answer.status} {answer.reason}")
    share = len(explained) and sum(explained.values()) / (good + len(answers))
    stage.check("failures with one", f"{share:.3%}", "< 1 %", share < 0.01)
    lost, twice = _posts(trouble, streams, answers)
    stage.check("POST that were answered and never came", lost, "0", not lost)
    stage.check("POST that came twice", twice, "0", not twice)
    odd = history.odd
    stage.check("reloads that went otherwise than they should", "; ".join(odd[:3]) or 0, "0", not odd)
    latency = result["milliseconds"]
    stage.tell("p50, p99, p99.9", ", ".join(milliseconds(_percentile(latency, share)) for share in (50, 99, 99.9)))


def _posts(trouble: Trouble, streams: list[Stream], failed: list[Answer]) -> tuple[int, int]:
    """How many POST no backend has seen although they were answered; how many came twice."""
    seen = Counter(trouble.posts.read_text().split())
    asked = {
        f"{stream.name}-{number}"
        for stream in streams
        if stream.method == "POST"
        for number in range(round(stream.rate * stream.seconds))
    }
    lost = asked - seen.keys() - {answer.id for answer in failed}
    return len(lost), sum(count > 1 for name, count in seen.items() if name in asked)


def _judge_holdings(stage: Stage, before: Holdings, after: Holdings, taken: list[Sample], seconds: float) -> None:
    for title, was, now in (
        ("descriptors", before.files, after.files),
        ("greenlets", before.greenlets, after.greenlets),
    ):
        stage.check(title, f"{was} -> {now}", "<= +5 %", now <= was * (1 + _WITHIN))
    long = seconds >= 2 * _WARM
    for process, grows in sorted(growth(taken, min(_WARM, seconds / 2)).items()):
        title, value = f"memory of the {process} in ten minutes", f"{grows / 1e6:+.2f} MB"
        if long:
            stage.check(title, value, "< +1 MB", grows < _SLOPE)
        else:
            stage.tell(title, f"{value} (judged from {2 * _WARM / 60:g} minutes on)")


def main() -> int:
    arguments = _arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))
    report = Report(_SOAK)
    taken: list[Sample] = []
    marks: list[tuple[float, str]] = []
    with TemporaryDirectory(prefix="charon-soak-") as folder, Stage(report, _SOAK.short, 2, Path(folder)) as stage:
        try:
            taken, marks = _run(stage, arguments)
        except (StageError, AssertionError, OSError) as problem:
            report.problem = f"{type(problem).__name__}: {str(problem).strip()}"
    if taken:
        print(chart.table(taken), chart.plot(taken), sep="\n\n", end="\n\n")
        if arguments.plot is not None:
            arguments.plot.write_text(chart.svg(taken, marks))
            print(f"picture: {os.path.relpath(arguments.plot)}\n")
    print(table([report]))
    return 0 if report.passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        sys.exit(130)
