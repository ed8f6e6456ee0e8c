"""The command line: exits with 0 when every peer gave figures, 1 when one did not, 2 when nothing could run."""

import argparse
import fcntl
import json
import os
import platform
import re
import sys
from pathlib import Path
from statistics import median

from scripts.benchlib.intercept_workloads import Intercepted
from scripts.benchlib.peers import PEERS
from scripts.benchlib.procs import LOAD_CORES, PEER_CORES, BenchError, prepare
from scripts.benchlib.runner import Result, run
from scripts.benchlib.tls_workloads import Https, HttpsNew
from scripts.benchlib.workloads import (
    Http,
    HttpFull,
    HttpRecords,
    HttpTraced,
    Memory,
    Options,
    TcpBulk,
    TcpMessages,
    Workload,
)

KINDS = (Http, HttpFull, HttpRecords, HttpTraced, Https, HttpsNew, TcpBulk, TcpMessages, Memory, Intercepted)
WORKLOADS: dict[str, type[Workload]] = {kind.name: kind for kind in KINDS}

REFERENCES = ("envoy", "nginx")
_NUMBERS = {  # option: default, meaning
    "rounds": (3, "interleaved rounds"),
    "seconds": (4, "seconds of one measurement"),
    "connections": (32, "connections that are busy at once"),
    "streams": (1, "bulk streams at once"),
    "idle": (3000, "idle connections of the memory workload"),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Charon beside other proxies, at the same work.")
    parser.add_argument("workload", nargs="+", choices=[*WORKLOADS, "all"])
    parser.add_argument("--bare", action="store_true", help="access log off (default: JSON to a file)")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    for name, (default, text) in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
    arguments = parser.parse_args()
    if low := [name for name in _NUMBERS if getattr(arguments, name) < 1]:
        parser.error(f"--{low[0]} must be at least 1")
    if unknown := set(arguments.peers.split(",")) - set(PEERS):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")
    return arguments


def _span(values: list[float], digits: int) -> str:
    """``median (lowest–highest)``"""
    if not values:
        return "-"
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def _table(result: Result) -> str:
    rows = [["peer"], *([peer] for peer in result.samples)]
    for column in result.workload.columns:
        for row, peer in zip(rows, ["", *result.samples], strict=True):
            row.append(_span(result.values(peer, column.key), column.digits) if peer else column.title)
            for name in REFERENCES if column.ratio else ():
                row.append(_span(result.ratios(peer, name, column.key), 2) if peer else f"÷ {name}")
            if column.over:
                row.append(_span(result.differences(peer, column.key), column.digits) if peer else "over")
    for row, peer in zip(rows, ["", *result.samples], strict=True):
        row.append(_span(result.values(peer, "others_percent"), 0) if peer else "others on its core %")
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([result.workload.title, *lines, *(f"{peer}: none: {why}" for peer, why in result.failed.items())])


def _machine(versions: list[str]) -> str:
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return (
        f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()}), Linux {platform.release()}, "
        f"Python {platform.python_version()}; {', '.join(versions)}; "
        f"peer on core {PEER_CORES[0]}, load and backend on {','.join(map(str, LOAD_CORES))}"
    )


def _run(arguments: argparse.Namespace) -> int:
    options = Options(**{name: getattr(arguments, name) for name in _NUMBERS}, access_log=not arguments.bare)
    peers = [PEERS[name] for name in dict.fromkeys(arguments.peers.split(","))]
    machine = _machine([f"{peer.name} {peer.version()}" for peer in peers])
    failed, report = False, []
    for name, kind in WORKLOADS.items():
        if name in arguments.workload or "all" in arguments.workload:
            result = run(kind, [peer for peer in peers if peer.name in kind.peers], options)
            print(f"\n{_table(result)}\n", flush=True)
            failed |= bool(result.failed)
            title = result.workload.title
            report.append({"name": name, "title": title, "samples": result.samples, "failed": result.failed})
    print(f"Medians of {options.rounds} interleaved rounds of {options.seconds} s (lowest–highest). {machine}")
    if arguments.json:
        figures = {"machine": machine, "options": vars(options), "workloads": report}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if failed else 0


def main() -> int:
    arguments = _arguments()
    prepare()
    try:  # two runs at once would share the peer's core; the lock goes with the process
        fcntl.flock(os.open(Path(__file__).parent, os.O_RDONLY), fcntl.LOCK_EX)
        return _run(arguments)
    except BenchError as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
