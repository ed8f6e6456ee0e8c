"""The command line: exits with 0 when every peer gave figures, 1 when one did not or the check found worse ones, 2 when
nothing could run."""

import argparse
import fcntl
import json
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchlib.bars import summary
from scripts.benchlib.chart import chart
from scripts.benchlib.check import NotComparableError, compare, recorded
from scripts.benchlib.figures import Document, text_table
from scripts.benchlib.page import page, to_text
from scripts.benchlib.peer import ROOT, Peer, Setup
from scripts.benchlib.peers import PEERS
from scripts.benchlib.procs import LOAD_CORES, PEER_CORES, PROBLEMS, ROOM, BenchError, prepare
from scripts.benchlib.runner import run
from scripts.benchlib.workload import Options, Workload
from scripts.benchlib.workloads import APART, WORKLOADS

DOCS = ROOT / "docs"
RECORD = DOCS / "benchmarks.json"
LAST = ROOT / ".run" / "bench.json"

_NUMBERS = {  # option: default, meaning
    "rounds": (3, "interleaved rounds"),
    "seconds": (3, "seconds of one measurement"),
    "connections": (32, "connections that are busy at once"),
    "streams": (1, "bulk streams at once"),
    "idle": (10_000, "idle connections of the memory workload"),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Charon beside other proxies, at the same work.")
    what = f"{', '.join(WORKLOADS)}; all (but {', '.join(APART)}); or: report"
    parser.add_argument("what", nargs="*", metavar="WORKLOAD", help=what)
    parser.add_argument("--bare", action="store_true", help="access log off (default: JSON to a file)")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, .svg and .json from this run")
    text = "say what is worse than in docs/benchmarks.json; of this run, or of FILE (default: the last run)"
    parser.add_argument("--check", action="store_true", help=text)
    for name, (default, text) in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
    arguments = parser.parse_args()
    if low := [name for name in _NUMBERS if getattr(arguments, name) < 1]:
        parser.error(f"--{low[0]} must be at least 1")
    if unknown := set(arguments.peers.split(",")) - set(PEERS):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")
    arguments.file = LAST
    _understand(parser, arguments)
    return arguments


def _understand(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Sort what was said into workloads to run, or a file that is there already."""
    words = list(arguments.what)
    arguments.report = words[:1] == ["report"]
    if arguments.report:
        words.pop(0)
    if words and words[0].endswith(".json"):
        arguments.file = Path(words.pop(0))
    elif not arguments.report:
        if unknown := [word for word in words if word not in (*WORKLOADS, "all")]:
            parser.error(f"unknown workload {', '.join(unknown)}; known: {_known()}")
        every = [name for name in WORKLOADS if name not in APART]
        wanted = set(words) | (set(every) if "all" in words else set())
        arguments.kinds = [kind for name, kind in WORKLOADS.items() if name in wanted]
        if arguments.write and "all" not in words:
            parser.error("--write is for all: the page and the record would lose the rest")
        if arguments.kinds or arguments.check:
            return
        parser.error(f"which workload? {_known()}")
    if words:
        parser.error(f"{' '.join(words)}: a file is read alone")
    if not arguments.report and not arguments.check:
        parser.error("a file is for report and --check")
    arguments.kinds = []


def _known() -> str:
    return ", ".join([*WORKLOADS, "all", "report"])


def _machine() -> dict[str, object]:
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "cpu": model.group(1) if model else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "peer_core": PEER_CORES[0],
        "load_cores": ",".join(map(str, LOAD_CORES)),
        "room": ROOM,
    }


def _about(peer: Peer, options: Options) -> dict[str, str]:
    """What the page says of it; ``missing`` says why it is left out."""
    about = {"program": peer.program, "settings": peer.settings, "missing": peer.missing()}
    if about["missing"]:
        print(f"{peer.name} is left out: {about['missing']}", file=sys.stderr)
        return {**about, "version": "-"}
    with TemporaryDirectory(prefix="charon-bench-") as name:
        folder = Path(name)
        argv = peer.command(Setup("http", 8080, 9090, options.access_log, options.room, folder))
        files = [path.read_text() for path in sorted(folder.iterdir())]
        text = "\n".join([*files, " ".join(argv)])
    text = text.replace(name, "FOLDER").replace(sys.executable, "python").replace(f"{ROOT}/", "")
    return {**about, "version": peer.version(), "configuration": text}


def _run(kinds: list[type[Workload]], names: list[str], options: Options) -> Document:
    applying = {kind: [name for name in names if name in kind.peers] for kind in kinds}
    used = [name for name in names if any(name in found for found in applying.values())]
    peers = {name: _about(PEERS[name], options) for name in used}
    there = {kind: [PEERS[name] for name in found if not peers[name]["missing"]] for kind, found in applying.items()}
    seconds = sum(kind.seconds(options, len(found)) for kind, found in there.items())
    print(f"about {seconds / 60:.0f} min", file=sys.stderr)
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    document = Document(date, _machine(), vars(options), peers, [])
    for kind, found in there.items():
        if found:
            measured = run(kind, found, options)
            document.workloads.append(measured)
            print("\n".join(["", measured.title, text_table(measured.rows()), *measured.notes(), ""]), flush=True)
    if not any(measured.samples for measured in document.workloads):
        raise BenchError("nothing was measured")
    rounds = f"Medians of {options.rounds} interleaved rounds of {options.seconds} s (lowest–highest)."
    print(f"{text_table(summary(document))}\n\n{rounds} {document.place()}; {document.versions()}")
    return document


def _write(document: Document) -> None:
    if absent := [name for name in WORKLOADS if name not in APART and not document.workload(name)]:
        print(f"not in this run: {', '.join(absent)}", file=sys.stderr)
    (DOCS / "benchmarks.md").write_text(page(document))
    (DOCS / "benchmarks.svg").write_text(chart(document))
    RECORD.write_text(to_text(recorded(document)))
    print(f"written: {DOCS / 'benchmarks.md'}, .svg and .json", file=sys.stderr)


def _check(document: Document) -> bool:
    """Whether nothing is worse than recorded; says what is."""
    try:
        count, worse = compare(document, json.loads(RECORD.read_text()))
    except NotComparableError as problem:
        raise BenchError(f"not comparable with {RECORD}: {problem}") from problem
    for line in worse:
        print(f"worse: {line}")
    print(f"{len(worse)} of {count} ratios are worse than recorded")
    return not worse


def _work(arguments: argparse.Namespace) -> int:
    good = True
    if arguments.kinds:
        options = Options(**{name: getattr(arguments, name) for name in _NUMBERS}, access_log=not arguments.bare)
        document = _run(arguments.kinds, list(dict.fromkeys(arguments.peers.split(","))), options)
        good = not any(measured.failed for measured in document.workloads)
        LAST.parent.mkdir(exist_ok=True)
        for path in filter(None, (LAST, arguments.json)):
            path.write_text(json.dumps(document.to_json(), indent=1) + "\n")
    else:
        document = Document.from_json(json.loads(arguments.file.read_text()))
    if arguments.check:  # first: afterwards the record may be this run
        good &= _check(document)
    if arguments.write or arguments.report:
        _write(document)
    return 0 if good else 1


def main() -> int:
    arguments = _arguments()
    try:
        if arguments.kinds:
            prepare()
            # two runs at once would share the peer's core; the lock goes with the process
            fcntl.flock(os.open(Path(__file__).parent, os.O_RDONLY), fcntl.LOCK_EX)
        return _work(arguments)
    except PROBLEMS as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
