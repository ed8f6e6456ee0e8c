"""The patterns: linear by their structure, and equal to a slow parser that reads the rules byte by byte."""

from __future__ import annotations

import re
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.errors import BadMessage
from charon.wire import grammar
from charon.wire.messages import HeadLimits, RequestHead, parse_request, parse_response

PATTERNS = {name: value for name, value in vars(grammar).items() if isinstance(value, re.Pattern)}


def backtracking(tree: Any) -> list[str]:
    """The repetitions in a parsed pattern that may give bytes back and have no small bound."""
    found: list[str] = []
    for op, argument in tree:
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            low, high, inner = argument
            # `?` and short counts try each place a bounded number of times.
            if high is ops.MAXREPEAT or high - low > 64:
                found.append(f"{op}{argument[:2]}")
            found += backtracking(inner)
        elif op is ops.POSSESSIVE_REPEAT:
            found += backtracking(argument[2])
        elif op is ops.SUBPATTERN:
            found += backtracking(argument[3])
        elif op is ops.BRANCH:
            for branch in argument[1]:
                found += backtracking(branch)
        elif op in (ops.ASSERT, ops.ASSERT_NOT):
            found += backtracking(argument[1])
        elif op is ops.ATOMIC_GROUP:
            found += backtracking(argument)
        else:
            assert op in (ops.LITERAL, ops.NOT_LITERAL, ops.IN, ops.ANY), op
    return found


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_no_pattern_can_backtrack_without_bound(name: str) -> None:
    assert backtracking(parser.parse(PATTERNS[name].pattern)) == []


def test_the_structure_check_finds_what_it_looks_for() -> None:
    for pattern in (rb"a+", rb"(?:a++)*", rb"(?:b|a*?)", rb"(?>(a+))", rb"(?=a*)"):
        assert backtracking(parser.parse(pattern))


# A slow parser of heads, written from the RFCs and not from the patterns.

TCHARS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
TARGET_CHARS = frozenset(range(0x21, 0x7F)) - frozenset(b'"#<>\\')
VALUE_CHARS = frozenset(b"\t") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))

Split = tuple[list[bytes], list[tuple[bytes, bytes]]]


def split_head(data: bytes) -> Split | None:
    """The first line in its words and the field lines, or None when any byte is wrong. ``data`` is a whole head."""
    assert data.endswith(b"\r\n\r\n")
    lines = data[:-4].split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        return None
    fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not (colon and name and TCHARS.issuperset(name) and VALUE_CHARS.issuperset(value)):
            return None
        start, end = 0, len(value)
        while start < end and value[start] in b" \t":
            start += 1
        while start < end and value[end - 1] in b" \t":
            end -= 1
        fields.append((name, value[start:end]))
    return lines[0].split(b" "), fields


def slow_request(data: bytes) -> Split | None:
    """None when the grammar refuses; only for origin-form targets without escapes and dots."""
    split = split_head(data.removeprefix(b"\r\n"))
    if split is None:
        return None
    words, fields = split
    if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        return None
    if not (words[0] and TCHARS.issuperset(words[0])):
        return None
    if not (words[1].startswith(b"/") and TARGET_CHARS.issuperset(words[1])):
        return None
    return words, fields


def slow_response(data: bytes) -> list[tuple[bytes, bytes]] | None:
    split = split_head(data)
    if split is None:
        return None
    words, fields = split
    if words[0] not in (b"HTTP/1.0", b"HTTP/1.1") or len(words) < 2:
        return None
    if not (len(words[1]) == 3 and words[1][0] in b"12345" and all(digit in b"0123456789" for digit in words[1])):
        return None
    return fields if all(VALUE_CHARS.issuperset(word) for word in words[2:]) else None


JUNK = st.sampled_from([bytes([code]) for code in (0, 9, 10, 11, 13, 31, 32, 33, 34, 35, 44, 58, 59, 60, 92, 126, 127,
128, 255)])
NAMES = st.one_of(
    st.sampled_from([b"A", b"x-b", b"!#$%&'*+-.^_`|~", b"User-Agent"]),
    st.lists(st.one_of(JUNK, st.just(b"n")), max_size=3).map(b"".join),
)
VALUES = st.lists(st.one_of(JUNK, st.sampled_from([b"v", b" ", b"\t", b"a b", b"\r\n", b"\r\n "])),
max_size=5).map(b"".join)
LINES = st.one_of(
    st.builds(lambda name, value: name + b":" + value + b"\r\n", NAMES, VALUES),
    st.sampled_from([b"C: d\r\n", b"C:d \r\n", b"C : d\r\n", b" C: d\r\n", b"C\r\n", b"\n", b"\r", b":\r\n"]),
)
BLOCKS = st.lists(LINES, max_size=4).map(b"".join)
WORDS = st.lists(st.one_of(JUNK, st.sampled_from([b"G", b"/"])), max_size=3).map(b"".join)
REQUEST_LINES = st.one_of(
    st.sampled_from([b"GET / HTTP/1.1\r\n", b"\r\nPOST /a?b HTTP/1.0\r\n", b"\r\n\r\nGET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\n"]),
    st.builds(lambda method, target, rest: method + b" /" + target + b" HTTP/1.1" + rest + b"\r\n", WORDS, WORDS,
    WORDS),
)
STATUS_LINES = st.one_of(
    st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404\r\n", b"HTTP/1.1 500 \r\n", b"HTTP/1.1 600 x\r\n",
    b"HTTP/1.1  200 x\r\n"]),
    st.builds(lambda code, reason: b"HTTP/1.1 " + code + b" " + reason + b"\r\n",
              st.sampled_from([b"200", b"099", b"2000", b"20", b"2 0", b"+20", b"599"]), VALUES),
)  # fmt: skip

MINE = b"Host: h\r\n"
LIMITS = HeadLimits()


def first_head(data: bytes) -> bytes:
    """``data`` up to its first empty line, the one that may stand in front apart."""
    start = 2 if data.startswith(b"\r\n") else 0
    return data[: data.index(b"\r\n\r\n", start) + 4]


@given(REQUEST_LINES, BLOCKS, WORDS)
def test_requests_against_the_slow_parser(line: bytes, block: bytes, behind: bytes) -> None:
    data = line + MINE + block + b"\r\n\r\n" + behind
    head = first_head(data)
    expected = slow_request(head)
    try:
        result = parse_request(data, LIMITS)
    except BadMessage as bad:
        # Host may have been cut off by an early empty line; all else here is grammar.
        assert expected is None or bad.detail == "no Host"
        assert bad.detail != "the head is malformed", "the diagnosis finds what the pattern refuses"
        return
    assert result is not None and expected is not None
    parsed, end = result
    words, fields = expected
    assert end == len(head)
    assert (parsed.method, parsed.target) == (words[0], words[1])
    assert parsed.fields == [field for field in fields if field[0].lower() != b"host"]


@given(STATUS_LINES, BLOCKS, WORDS)
def test_responses_against_the_slow_parser(line: bytes, block: bytes, behind: bytes) -> None:
    data = line + block + b"\r\n\r\n" + behind
    head = data[: data.index(b"\r\n\r\n") + 4]
    expected = slow_response(head)
    try:
        result = parse_response(data, b"GET", LIMITS)
    except BadMessage as bad:
        assert expected is None
        assert bad.detail != "the head is malformed", "the diagnosis finds what the pattern refuses"
        return
    assert result is not None and result[1] == len(head)
    assert result[0].fields == expected


SMALL = HeadLimits(max_header_bytes=60, max_headers=3, max_target_bytes=12)


@given(REQUEST_LINES, BLOCKS, WORDS, st.sampled_from([LIMITS, SMALL]))
def test_the_verdict_does_not_depend_on_the_pieces(
    line: bytes, block: bytes, behind: bytes, limits: HeadLimits
) -> None:
    """Every beginning of the bytes gives no verdict yet, or the verdict of all of them."""

    def verdict(data: bytes) -> object:
        try:
            result = parse_request(data, limits)
        except BadMessage as bad:
            return bad.reason.word, bad.detail
        if result is None:
            return None
        head: RequestHead = result[0]
        return result[1], [getattr(head, name) for name in RequestHead.__slots__]

    data = line + MINE + block + b"\r\n\r\n" + behind
    whole = verdict(data)
    assert whole is not None
    decided = False
    for cut in range(len(data) + 1):
        partial = verdict(data[:cut])
        assert partial == whole if decided else partial in (None, whole)
        decided = partial is not None
    assert decided


@pytest.mark.parametrize(
    "filler", [b"a", b"a:", b"a:\r\n", b"a:b\r\n ", b" ", b"\t", b":", b"a: \t \t", b",", b";", b"%41"]
)
def test_full_size_hostile_heads_get_a_verdict(filler: bytes) -> None:
    """Both limits are reached by one kind of bytes in each place; what is refused is refused for a stated reason."""
    for front in (b"", b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nA:"):
        data = (front + filler * 65_537)[:65_537]
        with pytest.raises(BadMessage) as caught:
            parse_request(data, LIMITS)
        assert caught.value.detail != "the head is malformed"


@pytest.mark.parametrize(
    ("front", "back", "allowed"),
    [
        (b"G", b"T / HTTP/1.1\r\nHost: a\r\n\r\n", TCHARS),
        (b"GET /a", b"?b HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_CHARS - frozenset(b"%")),
        (b"GET /a?b", b"c HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_CHARS),
        (b"GET / HTTP/1.1\r\nHost: a\r\nN", b"n: v\r\n\r\n", TCHARS | frozenset(b":")),
        (b"GET / HTTP/1.1\r\nHost: a\r\nN: v", b"v\r\n\r\n", VALUE_CHARS),
        (b"GET / HTTP/1.1\r\nHost: a\r\nN: v", b"\r\n\r\n", VALUE_CHARS),
        (b"GET / HTTP/1.1\r\nHost: a\r\nN:", b"v\r\n\r\n", VALUE_CHARS),
        (b"GET / HTTP/1.1\r\nHost: a", b"b\r\n\r\n", frozenset(b"-._~!$&'()*+,;=") | frozenset(
            code for code in range(128) if chr(code).isalnum())),
    ],
    ids=["method", "path", "query", "name", "value", "value-end", "value-start", "host"],
)  # fmt: skip
def test_every_byte_in_every_place(front: bytes, back: bytes, allowed: frozenset[int]) -> None:
    for code in range(256):
        data = front + bytes([code]) + back
        try:
            accepted = parse_request(data, LIMITS) is not None
        except BadMessage:
            accepted = False
        assert accepted is (code in allowed), code


def test_every_byte_in_a_reason() -> None:
    for code in range(256):
        try:
            accepted = parse_response(b"HTTP/1.1 200 O%bK\r\n\r\n" % bytes([code]), b"GET", LIMITS) is not None
        except BadMessage:
            accepted = False
        assert accepted is (code in VALUE_CHARS), code
