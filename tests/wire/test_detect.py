"""The corpus of first bytes in ``cases/detect`` against ``charon.wire.detect``; ``cases/README.md`` says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from charon.wire.detect import Protocol, detect

OPEN = (Protocol.UNDECIDED, Protocol.HTTP1_BEGUN)
CASES: list[dict[str, Any]] = [
    case
    for file in sorted((Path(__file__).parent / "cases" / "detect").glob("*.yaml"))
    for case in yaml.safe_load(file.read_text())
]


def data_of(case: dict[str, Any]) -> bytes:
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    if "generate" in case:
        how = case["generate"]
        text = str(how["prefix"]) + str(how["repeat"]) * int(how["count"]) + str(how.get("suffix", ""))
        return text.encode("latin-1")
    return str(case["text"]).encode("latin-1")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_first_bytes(case: dict[str, Any]) -> None:
    data, verdict = data_of(case), Protocol(case["is"])
    assert detect(data) is verdict
    step = max(1, len(data) // 64)
    seen = [detect(data[:length]) for length in [*range(0, len(data), step), len(data)]]
    decided = next((place for place, found in enumerate(seen) if found not in OPEN), len(seen))
    assert all(found in OPEN for found in seen[:decided])
    assert all(found is verdict for found in seen[decided:])
    if verdict not in OPEN:
        assert detect(data + b"\x00\xff more \r\n") is verdict


def test_the_corpus_is_wide() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) >= 100
    assert sum(case["is"] == "tcp" for case in CASES) >= 40
