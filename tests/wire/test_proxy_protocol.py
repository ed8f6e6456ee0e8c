"""The corpus in ``cases/proxy`` against ``charon.wire.proxy_protocol``; ``cases/README.md`` says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from charon.base.errors import BAD_PROXY_HEADER, BadMessage
from charon.wire.proxy_protocol import Header, Peers, header, parse

CASES: list[dict[str, Any]] = [
    case
    for file in sorted((Path(__file__).parent / "cases" / "proxy").glob("*.yaml"))
    for case in yaml.safe_load(file.read_text())
]
BEHIND = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def data_of(case: dict[str, Any]) -> bytes:
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    if "generate" in case:
        how = case["generate"]
        return bytes.fromhex(how["hex"]) + bytes.fromhex(how["repeat"]) * int(how["count"])
    return str(case["text"]).encode("latin-1")


def read(stream: bytes, most: int) -> tuple[Header | None, int]:
    """The header at the beginning of ``stream``, in pieces of at most ``most`` bytes, and how many were taken."""
    taken = 0
    while True:
        found = parse(stream[:taken])
        if isinstance(found, Header):
            return found, taken
        assert found > 0
        if taken == len(stream):
            return None, taken
        taken += min(found, most, len(stream) - taken)


@pytest.mark.parametrize("most", [1, 7, 4096])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_header(case: dict[str, Any], most: int) -> None:
    data = data_of(case)
    if "refuse" in case:
        with pytest.raises(BadMessage) as bad:
            read(data, most)
        assert bad.value.reason is BAD_PROXY_HEADER
        return
    found, taken = read(data, most)
    if case.get("incomplete"):
        assert found is None
        return
    expected = case["accept"]
    assert found == Header(None if expected is None else Peers(*expected))
    assert taken == len(data)
    assert read(data + BEHIND, most) == (found, len(data)), "not a byte of what follows is taken"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "peers",
    [Peers("192.0.2.1", 1, "192.0.2.2", 65535), Peers("2001:db8::1", 40000, "2001:db8::2", 443), None],
)
def test_what_is_written_is_read(version: int, peers: Peers | None) -> None:
    data = header(version, peers)
    assert read(data + BEHIND, 4096) == (Header(peers), len(data))


@pytest.mark.parametrize("version", [1, 2])
def test_ends_of_two_families_cannot_be_said(version: int) -> None:
    assert header(version, Peers("192.0.2.1", 1, "::1", 2)) == header(version, None)
