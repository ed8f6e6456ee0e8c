"""Heads of requests and responses, against a second, naive reading of what was accepted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from zlib import crc32

from charon.base import errors
from charon.base.errors import BadMessage
from charon.wire.framing import CHUNKED, UNTIL_CLOSE, answer_framing
from charon.wire.limits import HeadLimits
from charon.wire.messages import (
    RequestHead,
    ResponseHead,
    connection_lines,
    parse_request,
    parse_response,
    serialize_request,
    serialize_response,
)
from scripts.fuzzlib import seeds
from scripts.fuzzlib.target import Target, add, expect, places

LIMITS = (HeadLimits(), HeadLimits(max_header_bytes=160, max_headers=4, max_target_bytes=24))
"""The usual ones, and some that inputs of any size come up against."""

_TCHARS = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE_BYTES = bytes(code for code in range(256) if code == 9 or (code >= 32 and code != 127))
_HOP_BY_HOP = frozenset((b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"te", b"keep-alive"))
_REQUEST_REASONS = frozenset(
    (
        errors.BAD_REQUEST, errors.BAD_HOST, errors.BAD_FRAMING, errors.UNKNOWN_CODING, errors.BAD_VERSION,
        errors.METHOD_NOT_ALLOWED, errors.URI_TOO_LONG, errors.HEADERS_TOO_LARGE, errors.EXPECTATION_FAILED,
    )
)  # fmt: skip
_request_values = attrgetter(*(name for name in RequestHead.__slots__))
_response_values = attrgetter(*(name for name in ResponseHead.__slots__))
_forwarded_values = attrgetter("method", "target", "path", "host", "fields", "body")

Fields = list[tuple[bytes, bytes]]
Head = RequestHead | ResponseHead
Parse = Callable[[bytes], tuple[Head, int] | None]


def _outcome(parse: Parse, values: Callable[[Head], object], data: bytes) -> tuple[object, int] | None:
    """What ``data`` comes to, as values that can be compared; None while bytes are missing."""
    try:
        found = parse(data)
    except BadMessage as bad:
        return bad.reason, -1
    return None if found is None else (values(found[0]), found[1])


def _stays_the_same(parse: Parse, values: Callable[[Head], object], data: bytes, way: int) -> None:
    """Whatever pieces the bytes come in, and whatever follows them: in one of four ways to look at it."""
    whole = _outcome(parse, values, data)
    if way == 0 and whole is not None:
        more = _outcome(parse, values, data + b"GET / HTTP/1.1\r\n\r\n\n\0")
        expect(more == whole, "with more behind it comes to {}, not {}", more, whole)
    elif way == 1 and whole is not None and whole[1] >= 0:
        end = whole[1]
        expect(_outcome(parse, values, data[:end]) == whole, "its own bytes are not enough")
        expect(_outcome(parse, values, data[: end - 1]) is None, "the last byte is not needed")
    else:
        decided = False
        for place in places(data):
            outcome = _outcome(parse, values, data[:place])
            expect(outcome is None or outcome == whole, "{} bytes come to {}, all to {}", place, outcome, whole)
            expect(outcome is not None or not decided, "with {} bytes a verdict is gone", place)
            decided = outcome is not None


def _read_naively(raw: bytes) -> tuple[list[bytes], Fields]:
    """The words of the first line and all fields of a head that was accepted."""
    expect(raw.endswith(b"\r\n\r\n"), "it does not end with an empty line")
    expect(raw.count(b"\r\n") == raw.count(b"\r") == raw.count(b"\n"), "a bare CR or LF")
    expect(b"\r\n\r\n" not in raw[:-4], "it goes on behind an empty line")
    first, *lines = raw[:-4].split(b"\r\n")
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        expect(colon and name and not name.translate(None, _TCHARS), "a field name that is none: {!r}", line)
        expect(not value.translate(None, _VALUE_BYTES), "a value with a control byte: {!r}", line)
        fields.append((name, value.strip(b" \t")))
    return first.split(b" "), fields


def _framing(fields: Fields) -> tuple[list[bytes], list[bytes]]:
    """Values of Content-Length and of Transfer-Encoding; never both, never one of them twice."""
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    expect(len(lengths) + len(codings) < 2, "the length of the body is said twice")
    expect(all(value.isdigit() for value in lengths), "a length that is no number: {}", lengths)
    expect(all(value.lower() == b"chunked" for value in codings), "another coding: {}", codings)
    return lengths, codings


def _carried(head: Head, fields: Fields) -> None:
    """What goes on is some of what came, in its order, and nothing that belongs to this hop."""
    rest = iter(fields)
    expect(all(field in rest for field in head.fields), "a field that did not come, or in another order")
    names = {name.lower().replace(b"_", b"-") for name, _ in head.fields}
    expect(names.isdisjoint(_HOP_BY_HOP), "a field of this hop goes on: {}", names & _HOP_BY_HOP)


def check_request(data: bytes) -> Hashable:
    """A request head, at the beginning of any bytes."""
    number = crc32(data)
    limits = LIMITS[number >> 31]

    def parse(some: bytes) -> tuple[Head, int] | None:
        return parse_request(some, limits)

    _stays_the_same(parse, _request_values, data, number & 3)
    try:
        found = parse_request(data, limits)
    except BadMessage as bad:
        expect(bad.reason in _REQUEST_REASONS, "refused for another reason: {}", bad.reason)
        return bad.reason.word, bad.detail
    if found is None:
        return "incomplete"
    head, end = found
    words, fields = _read_naively(data[2:end] if data.startswith(b"\r\n") else data[:end])
    expect(len(words) == 3 and words[0] == head.method and words[2] == b"HTTP/1.%d" % (head.version - 10), "first line")
    expect(end <= limits.max_header_bytes + 2 and len(fields) <= limits.max_headers, "over a limit")
    hosts = [value for name, value in fields if name.lower() == b"host"]
    expect(len(hosts) == 1 or (not hosts and head.version == 10), "{} Hosts", len(hosts))
    lengths, codings = _framing(fields)
    expect(head.body == (CHUNKED if codings else int(lengths[0]) if lengths else 0), "body {}", head.body)
    _carried(head, fields)
    expect(all(name.lower() != b"host" for name, _ in head.fields), "Host goes on among the fields")
    _goes_on(head)
    return "accepted", head.body < 0, head.keep_alive, head.upgrade is None, head.forwarded is None, head.te_trailers


def _goes_on(head: RequestHead) -> None:
    """Written out, it reads as the same request and leaves nothing over."""
    head.host = head.host or b"none.example"  # a request of HTTP/1.0 may have none
    written = serialize_request(head, connection_lines(head))
    again = parse_request(written + b"\0", HeadLimits(max_header_bytes=1 << 20, max_headers=1000))
    assert again is not None
    expect(again[1] == len(written), "another length than was written")
    same = _forwarded_values(again[0]) == _forwarded_values(head)
    expect(same, "{} was {}", _forwarded_values(again[0]), _forwarded_values(head))
    expect(again[0].upgrade == head.upgrade and again[0].te_trailers == head.te_trailers, "another upgrade or TE")
    expect(again[0].forwarded is None and again[0].keep_alive, "not what was meant for this hop")


def check_response(data: bytes) -> Hashable:
    """A response head; whether it answers a HEAD follows from the bytes."""
    number = crc32(data)
    limits = LIMITS[number >> 31]
    method = b"HEAD" if number & 3 == 0 else b"GET"

    def parse(some: bytes) -> tuple[Head, int] | None:
        return parse_response(some, method, limits)

    _stays_the_same(parse, _response_values, data, number >> 2 & 3)
    try:
        found = parse_response(data, method, limits)
    except BadMessage as bad:
        expect(bad.reason is errors.UPSTREAM_MALFORMED, "refused for another reason: {}", bad.reason)
        return bad.detail
    if found is None:
        return "incomplete"
    head, end = found
    words, fields = _read_naively(data[:end])
    expect(len(words) >= 2 and words[1] == b"%d" % head.status and 100 <= head.status < 600, "first line")
    expect(end <= limits.max_header_bytes and len(fields) <= limits.max_headers, "over a limit")
    lengths, codings = _framing(fields)
    if head.status < 200 or head.status in (204, 304) or method == b"HEAD":
        expect(head.body == 0, "a body of {} where there can be none", head.body)
    else:
        expected = CHUNKED if codings else int(lengths[0]) if lengths else UNTIL_CLOSE
        expect(head.body == expected, "a body of {}, not {}", head.body, expected)
    expect(head.keep_alive is False or head.body != UNTIL_CLOSE, "kept, though its end is the end of the body")
    _carried(head, fields)
    for version in (11, 10) if head.status >= 200 else (11,):
        _is_passed_on(head, method, version)
    return "accepted", head.body if head.body < 0 else 0, head.keep_alive, head.has_date, head.status // 100


def _is_passed_on(head: ResponseHead, method: bytes, version: int) -> None:
    framing, length = answer_framing(head.body, head.declared_length, head.status, method, version)
    written = serialize_response(head, version, framing, b"")
    again = parse_response(written, method, HeadLimits(max_header_bytes=1 << 20, max_headers=1000))
    assert again is not None
    expect(again[1] == len(written), "another length than was written")
    same = (again[0].status, again[0].reason, again[0].fields, again[0].body)
    expect(same == (head.status, head.reason, head.fields, length), "{}", same)


_WORDS = (
    b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\0", b" ", b"\t", b":", b": ", b",", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0",
    b"Host: a\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding", b"Content-Length", b"Content_Length", b"chunked", b"gzip, chunked", b"Connection: ",
    b"close", b"keep-alive", b"Upgrade: websocket\r\n", b"upgrade", b"TE: trailers\r\n", b"te",
    b"Expect: 100-continue\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\n", b"Via: 1.1 a\r\n", b"\r\n folded", b"%2e", b"%00", b"/../", b"/./", b"//", b"?",
    b"#", b"http://a:80/", b"[::1]", b"OPTIONS * ", b"CONNECT ", b"HEAD ", b"PRI ", b"Keep-Alive: 1\r\n", b"\x80",
    b"\xff",
    b"Proxy: x\r\n", b"+5", b"0x5", b"5, 5", b"99999999999999999999", b"Date: x\r\n",
)  # fmt: skip
_STATUSES = (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 \r\n", b"HTTP/1.1 204 \r\n", b"HTTP/1.1 304\r\n", b"HTTP/1.0 600 ")

add(Target("requests", "request heads", check_request, lambda: seeds.messages("requests"), _WORDS))
add(Target("responses", "response heads", check_response, lambda: seeds.messages("responses"), _WORDS + _STATUSES))
