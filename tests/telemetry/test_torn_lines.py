"""Several processes write one log; every line arrives once, whole, and in its writer's order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HAMMER = Path(__file__).with_name("hammer.py")
WRITERS = 4
COUNT = 2000


def start(writer: int, stdout: int | None = None, path: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HAMMER), str(writer), str(COUNT), *([str(path)] if path else [])]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=stdout, env={**os.environ, "PYTHONPATH": str(root)})


def check_complete(lines: Iterable[bytes]) -> None:
    seen: dict[int, list[int]] = {writer: [] for writer in range(WRITERS)}
    for line in lines:
        fields = json.loads(line)
        assert fields["fill"] == "x" * (fields["number"] * 37 % 900)
        seen[fields["writer"]].append(fields["number"])
    for numbers in seen.values():
        assert numbers == list(range(COUNT))


def test_one_file_that_is_rotated_meanwhile(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    processes = [start(writer, path=log) for writer in range(WRITERS)]
    moved = 0
    while any(process.poll() is None for process in processes):
        if moved < 200 and log.exists() and log.stat().st_size:
            log.rename(tmp_path / f"access.log.{moved}")
            moved += 1
    assert [process.wait() for process in processes] == [0] * WRITERS
    assert moved > 1
    files = [*(tmp_path / f"access.log.{number}" for number in range(moved)), log]
    check_complete(line for file in files if file.exists() for line in file.read_bytes().splitlines())


def test_one_pipe() -> None:
    reader, writer = os.pipe()
    processes = [start(number, stdout=writer) for number in range(WRITERS)]
    os.close(writer)
    with open(reader, "rb") as pipe:
        lines = pipe.readlines()
    assert [process.wait() for process in processes] == [0] * WRITERS
    check_complete(lines)


def test_one_file_inherited_as_standard_output(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        processes = [start(number, stdout=out.fileno()) for number in range(WRITERS)]
        assert [process.wait() for process in processes] == [0] * WRITERS
    check_complete((tmp_path / "out").read_bytes().splitlines())
