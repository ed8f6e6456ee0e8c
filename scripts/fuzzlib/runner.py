"""A run of one target in a process of its own: guided by coverage (atheris), or plain, by mutation alone.

A plain run keeps an input that comes to a new kind of verdict, a guided one what reaches a new piece of Charon. The
result goes to ``result.json`` in a folder, the pool to ``pool/`` beside it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Hashable
from hashlib import sha1
from math import inf
from pathlib import Path

from scripts.fuzzlib.corpus import beginnings
from scripts.fuzzlib.mutator import Mutator
from scripts.fuzzlib.session import Result, Session
from scripts.fuzzlib.target import TARGETS, Target

MOST_KINDS = 2000
"""Inputs that a plain run adds to its pool at most, so that it does not lose itself in one of them."""


def plain(target: Target, session: Session, seed: int) -> list[bytes]:
    """Run mutations of a pool; gives the pool."""
    pool = beginnings(target)
    kinds: set[Hashable] = {session.run(data) for data in pool}
    made = Mutator(seed, target.words, target.largest).made
    run, over = session.run, session.over
    while not over():
        data = made(pool)
        kind = run(data)
        if kind not in kinds and len(kinds) < MOST_KINDS:
            kinds.add(kind)
            pool.append(data)
    session.result.corpus = len(pool)
    return pool


def guided(target: Target, session: Session, seed: int, folder: Path) -> None:
    """Hand the process over to libFuzzer; ``finish`` is where it ends."""
    import atheris

    pool, words = folder / "pool", folder / "words"
    _write_pool(pool, beginnings(target))
    quoted = ["".join(f"\\x{code:02x}" for code in word) for word in target.words]
    words.write_text("".join(f'"{word}"\n' for word in quoted))

    def one(data: bytes) -> None:
        session.run(data)
        if session.over():
            session.result.corpus = len(list(pool.iterdir()))
            _finish(session.result, folder)

    options = [f"-seed={seed}", f"-max_len={target.largest}", f"-dict={words}", "-detect_leaks=0", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, str(pool)], one)
    atheris.Fuzz()


def _write_pool(folder: Path, pool: list[bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for data in pool:
        (folder / sha1(data).hexdigest()).write_bytes(data)


def _finish(result: Result, folder: Path) -> None:
    (folder / "result.json").write_text(json.dumps(result.values()))
    sys.stdout.flush()
    os._exit(0)  # libFuzzer would go on


def _import_targets(instrumented: bool) -> None:
    """Enter them into the register, Charon being instrumented as it is imported or not."""
    if instrumented:
        import atheris

        with atheris.instrument_imports(include=["charon"], enable_loader_override=False):
            importlib.import_module("scripts.fuzzlib.targets")
    else:
        importlib.import_module("scripts.fuzzlib.targets")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=inf)
    parser.add_argument("--inputs", type=float, default=inf)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    _import_targets(instrumented=not arguments.plain)
    target = TARGETS[arguments.target]
    session = Session(target, arguments.seconds, arguments.inputs)
    if arguments.plain:
        pool = plain(target, session, arguments.seed)
        _write_pool(arguments.folder / "pool", pool)
        _finish(session.result, arguments.folder)
    guided(target, session, arguments.seed, arguments.folder)


if __name__ == "__main__":
    main()
