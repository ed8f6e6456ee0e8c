"""Inputs to begin with, from the corpus of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests/wire/cases"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def messages(kind: str) -> list[bytes]:
    """The raw messages of ``kind``, ``requests`` or ``responses``."""
    return [path.read_bytes() for path in sorted((CASES / kind).glob("*.http"))]


def beginnings(kind: str) -> list[bytes]:
    """The beginnings of connections of ``kind``, ``detect`` or ``proxy``, but those that are only long."""
    found = []
    for path in sorted((CASES / kind).glob("*.yaml")):
        for case in yaml.load(path.read_text(), Loader=_LOADER):
            if "hex" in case:
                found.append(bytes.fromhex(case["hex"]))
            elif "text" in case:
                found.append(case["text"].encode("latin-1"))
    return found


def bodies() -> list[bytes]:
    """What follows the heads of messages with chunks."""
    split = [message.partition(b"\r\n\r\n") for kind in ("requests", "responses") for message in messages(kind)]
    return [body for head, _, body in split if b"chunked" in head.lower() and body]
