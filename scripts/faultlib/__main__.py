"""The command line: exits with 0 when every fault passed, 1 when one did not, 2 for wrong usage."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import scripts.faultlib.faults  # noqa: F401 - enters all faults into the register
from scripts.faultlib.fault import FAULTS, Fault, Report, Size, table
from scripts.faultlib.stage import Stage, StageError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/faults", description="Reliability tests of Charon.")
    parser.add_argument("fault", nargs="*", metavar="NAME", help="or all; --list tells what there is")
    parser.add_argument("--list", action="store_true", help="what there is, and what passes")
    parser.add_argument("--seconds", type=float, metavar="N", help="length of the load, for those that go by time")
    parser.add_argument("--count", type=int, metavar="N", help="number of events, for those that go by number")
    parser.add_argument("--full", action="store_true", help="not shortened")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="workers of Charon (default 4)")
    arguments = parser.parse_args()
    if unknown := set(arguments.fault) - {"all", *FAULTS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    if not arguments.fault and not arguments.list:
        parser.error("name a fault, or all; --list tells what there is")
    for name in ("seconds", "count", "workers"):
        if getattr(arguments, name) is not None and getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be above 0")
    return arguments


def _list() -> None:
    for fault in FAULTS.values():
        print(fault.name)
        for word, text in (("setup", fault.setup), ("wrong", fault.wrong), ("passes", fault.passes)):
            print(textwrap.fill(text, 110, initial_indent=f"  {word:7} ", subsequent_indent=" " * 10))


def play(fault: Fault, size: Size, workers: int) -> Report:
    """Run one fault. What it could not finish is told in the report."""
    report = Report(fault)
    with TemporaryDirectory(prefix="charon-faults-") as folder, Stage(report, size, workers, Path(folder)) as stage:
        try:
            fault.run(stage)
        except (StageError, AssertionError, OSError) as problem:
            report.problem = f"{type(problem).__name__}: {str(problem).strip()}"
    return report


def _size(fault: Fault, arguments: argparse.Namespace) -> Size:
    size = fault.full if arguments.full else fault.short
    if arguments.seconds and size.seconds:
        size = replace(size, seconds=arguments.seconds)
    if arguments.count and size.count:
        size = replace(size, count=arguments.count)
    return size


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        _list()
        return 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))
    reports = []
    for fault in FAULTS.values():
        if fault.name in arguments.fault or "all" in arguments.fault:
            began = monotonic()
            print(f"{fault.name} ... ", end="", file=sys.stderr, flush=True)
            reports.append(play(fault, _size(fault, arguments), arguments.workers))
            verdict = "pass" if reports[-1].passed else "FAIL"
            print(f"{verdict} ({monotonic() - began:.0f} s)", file=sys.stderr)
    print(table(reports))
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("faults: interrupted", file=sys.stderr)
        sys.exit(130)
