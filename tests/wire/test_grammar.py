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


EVERY_BYTE = frozenset(range(256))
BLANK = frozenset(b" \t")
"""White space may stand before several things. A run of it is possessive, so each is looked at twice at most."""
ONE_CHARACTER = (ops.LITERAL, ops.NOT_LITERAL, ops.IN, ops.ANY)


def one_character(op: Any, argument: Any) -> frozenset[int]:
    """The bytes that an item of one character takes."""
    if op is ops.LITERAL:
        return frozenset({argument})
    if op is ops.NOT_LITERAL:
        return EVERY_BYTE - {argument}
    if op is ops.ANY:
        return EVERY_BYTE - {10}
    taken: set[int] = set()
    negated = False
    for kind, value in argument:
        if kind is ops.NEGATE:
            negated = True
        elif kind is ops.LITERAL:
            taken.add(value)
        else:
            assert kind is ops.RANGE, kind
            taken.update(range(value[0], value[1] + 1))
    return EVERY_BYTE - taken if negated else frozenset(taken)


def first(items: Any) -> tuple[frozenset[int], bool]:
    """The bytes that a sequence can begin with, and whether it can be empty."""
    begins: frozenset[int] = frozenset()
    for op, argument in items:
        if op in ONE_CHARACTER:
            return begins | one_character(op, argument), False
        if op is ops.SUBPATTERN:
            more, empty = first(argument[3])
        elif op is ops.BRANCH:
            branches = [first(branch) for branch in argument[1]]
            more, empty = frozenset().union(*(set_ for set_, _ in branches)), any(empty for _, empty in branches)
        else:
            assert op in (ops.MAX_REPEAT, ops.POSSESSIVE_REPEAT), op
            more, empty = first(argument[2])
            empty = empty or argument[0] == 0
        begins |= more
        if not empty:
            return begins, False
    return begins, True


def faults(items: Any, after: frozenset[int] = frozenset()) -> list[str]:
    """What in a parsed pattern, followed by something that begins with ``after``, could give back what it took."""
    found: list[str] = []
    items = list(items)
    for index, (op, argument) in enumerate(items):
        follows, empty = first(items[index + 1 :])
        if empty:
            follows |= after
        if op in (ops.MAX_REPEAT, ops.POSSESSIVE_REPEAT):
            low, high, inner = argument
            plain = len(inner) == 1 and inner[0][0] in ONE_CHARACTER
            begins, can_be_empty = first(inner)
            if op is ops.POSSESSIVE_REPEAT and not plain:
                found.append("a possessive group, which Python before 3.11.5 gets wrong")
            elif op is ops.MAX_REPEAT and plain and high - low > 64:
                found.append("an unbounded repetition of one character that is not possessive")
            elif op is ops.MAX_REPEAT and not plain and (can_be_empty or begins & follows - BLANK):
                found.append("a group that can be empty, or is followed by what it begins with")
            found += faults(inner, follows | begins if high != 1 else follows)
        elif op is ops.SUBPATTERN:
            found += faults(argument[3], follows)
        elif op is ops.BRANCH:
            branches = [first(branch)[0] for branch in argument[1]]
            if sum(map(len, branches)) != len(frozenset().union(*branches)) and not digits_only(branches):
                found.append("branches that can begin alike")
            for branch in argument[1]:
                found += faults(branch, follows)
        else:
            assert op in ONE_CHARACTER, op
    return found


def digits_only(branches: list[frozenset[int]]) -> bool:
    """Branches over a few digits (port numbers) may begin alike: their length is bounded by their shape."""
    return frozenset().union(*branches) <= frozenset(b"0123456789")


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_no_pattern_can_backtrack_without_bound(name: str) -> None:
    assert faults(parser.parse(PATTERNS[name].pattern)) == []


def test_the_structure_check_finds_what_it_looks_for() -> None:
    for pattern in (rb"a+", rb"(?:ab++)*a", rb"(?:xa|b|xc)", rb"(?:a*)*", rb"(?:a++b)*+", rb"(?:ab)?+", rb"(?:a*+)*b"):
        assert faults(parser.parse(pattern)), pattern


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


JUNK = st.sampled_from(
    [bytes([code]) for code in (0, 9, 10, 11, 13, 31, 32, 33, 34, 35, 44, 58, 59, 60, 92, 126, 127, 128, 255)]
)
NAMES = st.one_of(
    st.sampled_from([b"A", b"x-b", b"!#$%&'*+-.^_`|~", b"User-Agent"]),
    st.lists(st.one_of(JUNK, st.just(b"n")), max_size=3).map(b"".join),
)
VALUES = st.lists(st.one_of(JUNK, st.sampled_from([b"v", b" ", b"\t", b"a b", b"\r\n", b"\r\n "])), max_size=5).map(
    b"".join
)
LINES = st.one_of(
    st.builds(lambda name, value: name + b":" + value + b"\r\n", NAMES, VALUES),
    st.sampled_from([b"C: d\r\n", b"C:d \r\n", b"C : d\r\n", b" C: d\r\n", b"C\r\n", b"\n", b"\r", b":\r\n"]),
)
BLOCKS = st.lists(LINES, max_size=4).map(b"".join)
WORDS = st.lists(st.one_of(JUNK, st.sampled_from([b"G", b"/"])), max_size=3).map(b"".join)
REQUEST_LINES = st.one_of(
    st.sampled_from(
        [b"GET / HTTP/1.1\r\n", b"\r\nPOST /a?b HTTP/1.0\r\n", b"\r\n\r\nGET / HTTP/1.1\r\n", b"GET / HTTP/1.1\n"]
    ),
    st.builds(
        lambda method, target, rest: method + b" /" + target + b" HTTP/1.1" + rest + b"\r\n", WORDS, WORDS, WORDS
    ),
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


HEAD = (
    "body", "expect_continue", "fields", "forwarded", "host", "keep_alive", "method", "path", "target", "te_trailers",
    "upgrade", "version",
)  # fmt: skip


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
        return result[1], [getattr(head, name) for name in HEAD]

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
