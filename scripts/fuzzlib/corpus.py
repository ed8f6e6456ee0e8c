"""Saved inputs: for each target one file, a JSON array with an input a line, each byte the character of its number."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from scripts.fuzzlib.seeds import ROOT
from scripts.fuzzlib.target import Target

FOLDER = ROOT / "tests/fuzz/corpus"
LARGEST = 2048
"""Bytes of an input that is worth keeping."""

_CHARON = str(ROOT / "charon") + "/"

Edge = tuple[str, int, int]


def load(name: str) -> list[bytes]:
    """The saved inputs of a target."""
    file = FOLDER / f"{name}.json"
    return [text.encode("latin-1") for text in json.loads(file.read_text())] if file.exists() else []


def save(name: str, inputs: list[bytes]) -> None:
    """Write them down instead of what was there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(data.decode("latin-1")) for data in inputs)
    (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n")


def beginnings(target: Target) -> list[bytes]:
    """What to begin with: the seeds and the saved inputs of ``target``, each once."""
    return list(dict.fromkeys(data[: target.largest] for data in (*target.seeds(), *load(target.name)))) or [b""]


def minimised(target: Target, inputs: list[bytes]) -> list[bytes]:
    """The smallest of ``inputs`` that together take every step from line to line of Charon that all of them take."""
    known: set[Edge] = set()
    kept = []
    for data in sorted({data for data in inputs if len(data) <= LARGEST}, key=lambda data: (len(data), data)):
        edges = _edges(target, data)
        if not edges <= known:
            known |= edges
            kept.append(data)
    return kept


def _edges(target: Target, data: bytes) -> set[Edge]:
    edges: set[Edge] = set()

    def enter(frame: FrameType, event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_CHARON):
            return None
        last = frame.f_lineno

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            edges.add((file, last, frame.f_lineno))
            last = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        target.check(data)
    except Exception:  # noqa: BLE001 - a finding is told where it is found; here it is only what it reaches
        edges.add(("finding", len(data), 0))
    finally:
        sys.settrace(before)
    return edges


def read_folder(folder: Path) -> list[bytes]:
    """The inputs in the files of ``folder``, as a guided run leaves them."""
    return [path.read_bytes() for path in sorted(folder.iterdir())]
