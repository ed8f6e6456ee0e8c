"""The command line: exits with 0 when nothing was found, 1 when something was, 2 for wrong usage."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1
from pathlib import Path
from tempfile import TemporaryDirectory

import scripts.fuzzlib.targets  # noqa: F401 - enters all targets into the register
from scripts.fuzzlib import corpus
from scripts.fuzzlib.seeds import ROOT
from scripts.fuzzlib.session import Result, Session
from scripts.fuzzlib.target import TARGETS, Target

FINDINGS = ROOT / ".run/fuzz"
GRACE = 300.0
"""Seconds beyond its time after which a run hangs, which is a finding too; a busy machine takes long to begin one."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzzing of Charon's parsers.")
    parser.add_argument("target", nargs="*", metavar="TARGET", help="or all; --list tells what there is")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="length of each run (default 60)")
    parser.add_argument("--inputs", type=int, metavar="N", help="inputs after which a run ends before its time")
    parser.add_argument("--plain", action="store_true", help="mutation alone, not guided by coverage: faster")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the generator (default 1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="targets at once (default 1)")
    parser.add_argument("--save", action="store_true", help="keep what reaches something new in tests/fuzz/corpus")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run one input, as a finding was written down")
    arguments = parser.parse_args()
    if unknown := set(arguments.target) - {"all", *TARGETS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if not arguments.target and not arguments.list:
        parser.error("name a target, or all; --list tells what there is")
    if arguments.repeat and (len(arguments.target) != 1 or "all" in arguments.target):
        parser.error("--repeat takes one target")
    for name in ("seconds", "inputs", "jobs"):
        if getattr(arguments, name) is not None and getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be above 0")
    return arguments


def _guided(arguments: argparse.Namespace) -> bool:
    if arguments.plain:
        return False
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: there is no atheris for this Python: plain runs", file=sys.stderr)
        return False
    return True


def play(target: Target, arguments: argparse.Namespace, guided: bool) -> Result:
    """Run one target in a process of its own."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="charon-fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        folder = Path(name)
        command = [sys.executable, "-m", "scripts.fuzzlib.runner", target.name, name, *(() if guided else ("--plain",))]
        command += ["--seed", str(arguments.seed), "--seconds", str(arguments.seconds)]
        if arguments.inputs is not None:
            command += ["--inputs", str(arguments.inputs)]
        with open(folder / "output", "wb") as output:
            try:
                subprocess.run(
                    command, cwd=ROOT, env=os.environ | {"TMPDIR": name}, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, timeout=arguments.seconds + GRACE,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return Result(findings=[("it hangs\n", "")])
        written = folder / "result.json"
        if not written.exists():
            tail = (folder / "output").read_text(errors="replace")[-2000:]
            return Result(findings=[(f"the run broke off:\n{tail}\n", "")])
        result = Result(**json.loads(written.read_text()))
        if arguments.save:
            known = corpus.load(target.name) + target.seeds()
            corpus.save(target.name, corpus.minimised(target, known + corpus.read_folder(folder / "pool")))
        return result


def _keep(target: Target, result: Result) -> None:
    """Write the inputs of all findings down, and tell of them."""
    for text, data in result.findings:
        raw = data.encode("latin-1")
        file = FINDINGS / target.name / sha1(raw).hexdigest()[:16]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)
        print(f"{target.name}: {text.rstrip()}\n  {raw[:400]!r}\n  scripts/fuzz {target.name} --repeat {file}\n")


def table(results: dict[str, Result], guided: bool) -> str:
    """Figures, a line for each target."""
    way = "guided" if guided else "plain"
    lines = [f"{'target':11}{'way':8}{'inputs':>10}{'inputs/s':>10}{'corpus':>8}{'slowest ms':>12}{'findings':>10}"]
    for name, result in results.items():
        rate = result.inputs / result.seconds if result.seconds else 0.0
        lines.append(
            f"{name:11}{way:8}{result.inputs:10,}{rate:10,.0f}{result.corpus:8}{result.slowest * 1000:12.2f}"
            f"{len(result.findings):10}"
        )
    return "\n".join(lines)


def _repeat(target: Target, file: Path) -> int:
    session = Session(target)
    print(f"verdict: {session.run(file.read_bytes())!r}, {session.result.slowest * 1000:.2f} ms")
    for text, _ in session.result.findings:
        print(text)
    return 1 if session.result.findings else 0


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        for target in TARGETS.values():
            print(f"{target.name:11}{target.what}")
        return 0
    signal.signal(signal.SIGTERM, lambda caught, _frame: sys.exit(128 + caught))
    if arguments.repeat:
        return _repeat(TARGETS[arguments.target[0]], arguments.repeat)
    chosen = [target for target in TARGETS.values() if target.name in arguments.target or "all" in arguments.target]
    guided = _guided(arguments)
    results: dict[str, Result] = {}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for target, result in zip(chosen, pool.map(lambda each: play(each, arguments, guided), chosen), strict=True):
            results[target.name] = result
            _keep(target, result)
            told = f"{result.inputs:,} inputs, {len(result.findings)} findings"
            print(f"{target.name}: {told} ({result.seconds:.0f} s)", file=sys.stderr, flush=True)
    print(table(results, guided))
    return 1 if any(result.findings for result in results.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("fuzz: interrupted", file=sys.stderr)
        sys.exit(130)
