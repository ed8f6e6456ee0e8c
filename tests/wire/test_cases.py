"""The corpus of raw messages in ``cases/`` against ``charon.wire``. The format is described in ``cases/README.md``.

Each case is read whole, byte by byte, and with another message behind it, and the verdict is the same each time. A
parsing bug adds a pair of files there and nothing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from charon.base.errors import BAD_CHUNK, UPSTREAM_MALFORMED, BadMessage
from charon.wire.chunked import ChunkedDecoder
from charon.wire.messages import (
    CHUNKED,
    UNTIL_CLOSE,
    HeadLimits,
    RequestHead,
    ResponseHead,
    parse_request,
    parse_response,
    serialize_request,
)

FOLDER = Path(__file__).parent / "cases"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
BODY_WORDS = {"chunked": CHUNKED, "until_close": UNTIL_CLOSE}
HEAD_KEYS = {
    "requests": {
        "method", "target", "path", "host", "version", "keep_alive", "body", "fields", "forwarded", "upgrade",
        "expect_continue", "te_trailers",
    },
    "responses": {"status", "reason", "version", "keep_alive", "body", "declared_length", "fields", "upgrade"},
}  # fmt: skip
BODY_KEYS = {"content", "content_sha256", "content_length", "trailers"}
NEXT = {
    "requests": b"POST /next?x=%7e HTTP/1.1\r\nHost: next.example\r\nX-Next: 1\r\nContent-Length: 4\r\n\r\nnext",
    "responses": b"HTTP/1.1 202 Next\r\nX-Next: 1\r\nContent-Length: 4\r\n\r\nnext",
}
NEXT_ACCEPTED: dict[str, dict[str, Any]] = {
    "requests": {
        "method": "POST", "target": "/next?x=%7e", "path": "/next", "host": "next.example", "version": 11,
        "fields": [["X-Next", "1"]], "forwarded": None, "body": 4, "content": "next", "keep_alive": True,
    },
    "responses": {"status": 202, "reason": "Next", "fields": [["X-Next", "1"]], "body": 4, "content": "next"},
}  # fmt: skip
# Above this a case is cut at many places, but not behind each byte: the growing buffer is read anew at each cut.
EVERY_CUT_BYTES = 4096

Head = RequestHead | ResponseHead


@dataclass(frozen=True)
class Case:
    """One raw text and what must come of it, message by message."""

    kind: str
    name: str
    data: bytes
    verdicts: list[dict[str, Any]]
    limits: HeadLimits

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    def parse(self, data: bytes, verdict: dict[str, Any]) -> tuple[Head, int] | None:
        if self.kind == "requests":
            return parse_request(data, self.limits)
        method = (verdict.get("accept") or {}).get("request_method", "GET")
        return parse_response(data, method.encode(), self.limits)

    def decoder(self) -> ChunkedDecoder:
        return ChunkedDecoder(BAD_CHUNK if self.kind == "requests" else UPSTREAM_MALFORMED, self.limits)


@dataclass(frozen=True)
class Accepted:
    head: Head
    content: bytes
    trailers: list[tuple[bytes, bytes]]
    used: int


@dataclass(frozen=True)
class Refused:
    word: str
    status: int


@dataclass(frozen=True)
class Incomplete:
    where: str


Outcome = Accepted | Refused | Incomplete


def load(path: Path) -> Case:
    spec = yaml.load(path.read_text(), Loader=LOADER)
    unknown = spec.keys() - {"rule", "why", "limits", "generate", "accept", "refuse", "incomplete", "messages"}
    assert not unknown, f"{path}: unknown keys {unknown}"
    assert spec["rule"] and spec["why"], path
    raw = path.with_suffix(".http")
    if "generate" in spec:
        assert not raw.exists(), f"{path}: either generate or a .http file"
        parts = {"prefix": "", "suffix": ""} | spec["generate"]
        data = (parts["prefix"] + parts["repeat"] * parts["count"] + parts["suffix"]).encode("latin-1")
    else:
        data = raw.read_bytes()
    kind = path.parent.name
    verdicts = spec.get("messages") or [{key: spec[key] for key in ("accept", "refuse", "incomplete") if key in spec}]
    for verdict in verdicts:
        assert len(verdict) == 1, f"{path}: one of accept, refuse, incomplete for each message"
        unknown = verdict.get("accept", {}).keys() - HEAD_KEYS[kind] - BODY_KEYS - {"request_method"}
        assert not unknown, f"{path}: unknown keys {unknown}"
    return Case(kind, path.stem, data, verdicts, HeadLimits(**spec.get("limits", {})))


CASES = [load(path) for kind in HEAD_KEYS for path in sorted((FOLDER / kind).glob("*.yaml"))]
ENDING = [case for case in CASES if "incomplete" not in case.verdicts[-1]]
FORWARDABLE = [case for case in CASES if case.kind == "requests" and "accept" in case.verdicts[0]]


# Reading, in one piece or in many.


def head_whole(case: Case, data: bytes, verdict: dict[str, Any]) -> tuple[Head, int] | None:
    return case.parse(data, verdict)


def cuts(data: bytes, end: int) -> Iterator[int]:
    """Lengths of the growing buffer; all of them, or for large cases those near the beginning and the ends."""
    if len(data) <= EVERY_CUT_BYTES:
        yield from range(1, len(data) + 1)
        return
    near = {*range(1, 257), *range(end - 8, end + 1), *range(len(data) - 8, len(data) + 1)}
    yield from sorted(cut for cut in near | {*range(257, len(data), 2003)} if 0 < cut <= len(data))


def attempt(case: Case, data: bytes, verdict: dict[str, Any]) -> tuple[Head, int] | BadMessage | None:
    try:
        return case.parse(data, verdict)
    except BadMessage as bad:
        return bad


def head_growing(case: Case, data: bytes, verdict: dict[str, Any]) -> tuple[Head, int] | None:
    """As a proxy reads: parse again after each byte, until there is a verdict, which more bytes must not change."""
    whole = attempt(case, data, verdict)
    if isinstance(whole, BadMessage):
        refused_at = 0
        for cut in cuts(data, len(data)):
            result = attempt(case, data[:cut], verdict)
            if isinstance(result, BadMessage):
                refused_at = refused_at or cut
                assert result.reason is whole.reason, f"{cut} bytes are refused for another reason than all"
            else:
                assert result is None, f"{cut} bytes are accepted, {len(data)} are refused"
                assert not refused_at, f"{refused_at} bytes are refused, {cut} are not"
        raise whole
    end = whole[1] if whole else len(data) + 1
    for cut in cuts(data, end):
        result = case.parse(data[:cut], verdict)
        if cut < end:
            assert result is None, f"{cut} bytes are a head, but the head has {end}"
        else:
            assert result is not None and whole is not None, f"{cut} bytes are no head, but the head has {end}"
            assert (shown(result[0]), result[1]) == (shown(whole[0]), end), f"{cut} bytes are another head than all"
    return whole


def in_one_piece(data: bytes) -> Iterator[bytes]:
    yield data


def in_bytes(data: bytes) -> Iterator[bytes]:
    """Single bytes; of large cases those at the beginning and at the end."""
    start = 0
    while start < len(data):
        middle = len(data) > EVERY_CUT_BYTES and 256 <= start < len(data) - 256
        size = 127 if middle else 1
        yield data[start : start + size]
        start += size


def split_at(cut: int) -> Callable[[bytes], Iterator[bytes]]:
    return lambda data: iter((data[:cut], data[cut:]))


def read_chunked(case: Case, head: Head, data: bytes, pieces: Callable[[bytes], Iterator[bytes]]) -> Outcome:
    decoder = case.decoder()
    content = bytearray()
    fed = 0
    for piece in pieces(data):
        for part in decoder.feed(piece):
            content += part
        fed += len(piece)
        if decoder.done:
            used = fed - len(decoder.leftover)
            assert bytes(decoder.leftover) == data[used:fed], "what is left over is the end of what was fed"
            return Accepted(head, bytes(content), list(decoder.trailers), used)
    return Incomplete("body")


def read(
    case: Case,
    data: bytes,
    verdict: dict[str, Any],
    head_reader: Callable[[Case, bytes, dict[str, Any]], tuple[Head, int] | None] = head_whole,
    pieces: Callable[[bytes], Iterator[bytes]] = in_one_piece,
) -> Outcome:
    """The first message of ``data``."""
    try:
        found = head_reader(case, data, verdict)
        if found is None:
            return Incomplete("head")
        head, end = found
        if head.body == CHUNKED:
            body = read_chunked(case, head, data[end:], pieces)
            return replace(body, used=end + body.used) if isinstance(body, Accepted) else body
    except BadMessage as bad:
        return Refused(bad.reason.word, bad.reason.status)
    length = len(data) - end if head.body == UNTIL_CLOSE else head.body
    assert length >= 0
    if len(data) < end + length:
        return Incomplete("body")
    return Accepted(head, data[end : end + length], [], end + length)


# Verdicts.


def text(value: Any) -> Any:
    """Bytes as the YAML files write them: each byte the character of its number."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("latin-1")
    if isinstance(value, list | tuple):
        return [text(item) for item in value]
    return value


def shown(head: Head) -> dict[str, Any]:
    kind = "requests" if isinstance(head, RequestHead) else "responses"
    return {key: text(getattr(head, key)) for key in HEAD_KEYS[kind]}


def judge(verdict: dict[str, Any], outcome: Outcome) -> None:
    if "refuse" in verdict:
        assert outcome == Refused(verdict["refuse"]["reason"], verdict["refuse"]["status"])
    elif "incomplete" in verdict:
        assert outcome == Incomplete(verdict["incomplete"])
    else:
        assert isinstance(outcome, Accepted), f"{outcome}, but it is to be accepted"
        expected = dict(verdict["accept"])
        expected.pop("request_method", None)
        if "body" in expected:
            expected["body"] = BODY_WORDS.get(expected["body"], expected["body"])
        actual = shown(outcome.head) | {
            "content": text(outcome.content),
            "content_length": len(outcome.content),
            "content_sha256": hashlib.sha256(outcome.content).hexdigest(),
            "trailers": text(outcome.trailers),
        }
        assert {key: actual[key] for key in expected} == expected


def read_all(case: Case, data: bytes, **how: Any) -> tuple[list[Outcome], bytes]:
    """Every message that the case has a verdict on, judged, and the bytes behind the last."""
    outcomes = []
    for verdict in case.verdicts:
        outcome = read(case, data, verdict, **how)
        judge(verdict, outcome)
        outcomes.append(outcome)
        if isinstance(outcome, Accepted):
            data = data[outcome.used :]
    return outcomes, data


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole(case: Case) -> None:
    outcomes, rest = read_all(case, case.data)
    if isinstance(outcomes[-1], Accepted):
        assert rest == b"", "the case holds nothing but its messages"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_byte_by_byte(case: Case) -> None:
    read_all(case, case.data, head_reader=head_growing, pieces=in_bytes)


@pytest.mark.parametrize("case", ENDING, ids=str)
def test_with_another_message_behind(case: Case) -> None:
    """What follows changes no verdict, and is read as it stands: no byte of it is lost, none gained."""
    following = NEXT[case.kind]
    *_, last = case.verdicts
    whole, _ = read_all(case, case.data)
    outcome = whole[-1]
    start = len(case.data) - outcome.used if isinstance(outcome, Accepted) else None
    if isinstance(outcome, Accepted) and outcome.head.body == UNTIL_CLOSE:
        again = read(case, case.data[start:] + following, last)
        assert isinstance(again, Accepted) and again.content == outcome.content + following
        return
    outcomes, rest = read_all(case, case.data + following)
    if isinstance(outcome, Accepted):
        assert rest == following
        again = outcomes[-1]
        assert isinstance(again, Accepted) and shown(again.head) == shown(outcome.head)
        if outcome.head.keep_alive:
            second = read(replace(case, limits=HeadLimits()), rest, {"accept": {}})
            judge({"accept": NEXT_ACCEPTED[case.kind]}, second)
            assert isinstance(second, Accepted) and second.used == len(following)


CHUNKED_CASES = [
    case for case in CASES if "chunk" in case.name and len(case.verdicts) == 1 and len(case.data) <= EVERY_CUT_BYTES
]


@pytest.mark.parametrize("case", CHUNKED_CASES, ids=str)
def test_chunked_bodies_in_any_two_pieces(case: Case) -> None:
    (verdict,) = case.verdicts
    for cut in range(len(case.data)):
        judge(verdict, read(case, case.data, verdict, pieces=split_at(cut)))


@pytest.mark.parametrize("case", FORWARDABLE, ids=str)
def test_what_goes_on_is_the_same_request(case: Case) -> None:
    """A request that is accepted goes on in one spelling, which reads as the same request and nothing more."""
    found = parse_request(case.data, case.limits)
    assert found is not None
    head = found[0]
    head.host = head.host or b"none.example"  # an HTTP/1.0 request may have none
    line = serialize_request(head, b"")
    again = parse_request(line + NEXT["requests"], HeadLimits(max_headers=case.limits.max_headers + 1))
    assert again is not None and again[1] == len(line)
    same = ("method", "target", "path", "host", "fields", "body")
    assert {key: getattr(again[0], key) for key in same} == {key: getattr(head, key) for key in same}
    assert again[0].forwarded is None and again[0].upgrade is None and again[0].version == 11


def test_the_corpus_is_whole() -> None:
    for kind, least in (("requests", 650), ("responses", 195)):
        names = {path.stem for path in (FOLDER / kind).glob("*.yaml")}
        orphans = {path.stem for path in (FOLDER / kind).glob("*.http")} - names
        assert not orphans, f"raw messages without a verdict: {orphans}"
        assert len(names) >= least
