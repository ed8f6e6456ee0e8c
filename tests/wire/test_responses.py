"""Response heads: every refusal is the upstream's fault; what remains goes on."""

from __future__ import annotations

import pytest

from charon.base.errors import UPSTREAM_MALFORMED, BadMessage
from charon.wire.messages import CHUNKED, UNTIL_CLOSE, HeadLimits, ResponseHead, parse_response, serialize_response

LIMITS = HeadLimits()


def parse(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    data = b"\r\n".join([line, *lines, b"", b""])
    result = parse_response(data + b"body", method, LIMITS)
    assert result is not None and result[1] == len(data)
    return result[0]


@pytest.mark.parametrize(
    ("line", "version", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 11, 200, b"OK"),
        (b"HTTP/1.0 404 Not Found", 10, 404, b"Not Found"),
        (b"HTTP/1.1 200 ", 11, 200, b""),
        (b"HTTP/1.1 200", 11, 200, b""),
        (b"HTTP/1.1 599 \xe9t\xe9\t!", 11, 599, b"\xe9t\xe9\t!"),
        (b"HTTP/1.1 200  OK", 11, 200, b" OK"),
    ],
)
def test_status_lines(line: bytes, version: int, status: int, reason: bytes) -> None:
    head = parse(line=line)
    assert (head.version, head.status, head.reason) == (version, status, reason)


@pytest.mark.parametrize(
    "data",
    [b"X", b"HTTP/2", b"HTTP/1.2 200 OK\r\n", b"HTTP/2.0 200 OK\r\n\r\n", b"http/1.1 200 OK\r\n\r\n",
     b"HTTP/1.1 99 x\r\n",
     b"HTTP/1.1 600 x\r\n", b"HTTP/1.1 099 x\r\n", b"HTTP/1.1 2000 x\r\n", b"HTTP/1.1  200 x\r\n",
     b"HTTP/1.1 200\tOK\r\n",
     b"HTTP/1.1 200OK\r\n", b"HTTP/1.1 +20 x\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 200 O\x00K\r\n",
     b"\r\nHTTP/1.1 200 OK\r\n\r\n",
     b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 OK\rA", b"HTTP/1.1 200 OK\r\nA : b\r\n", b"HTTP/1.1 200 OK\r\n A: b\r\n",
     b"HTTP/1.1 200 OK\r\nA\r\n", b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", b"ICY 200 OK\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n"],
)  # fmt: skip
def test_malformed(data: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_response(data, b"GET", LIMITS)
    assert caught.value.reason is UPSTREAM_MALFORMED


@pytest.mark.parametrize("data", [b"", b"H", b"HTTP/1.", b"HTTP/1.1 200 OK\r", b"HTTP/1.1 200 OK\r\nA: b\r\n\r"])
def test_incomplete(data: bytes) -> None:
    assert parse_response(data, b"GET", LIMITS) is None


@pytest.mark.parametrize(
    "limits", [HeadLimits(max_header_bytes=40), HeadLimits(max_headers=1)], ids=["bytes", "fields"]
)
def test_limits(limits: HeadLimits) -> None:
    data = b"HTTP/1.1 200 OK\r\nA: b\r\nC: " + b"d" * 20 + b"\r\n\r\n"
    for cut in (len(data), len(data) - 2):
        with pytest.raises(BadMessage) as caught:
            parse_response(data[:cut], b"GET", limits)
        assert caught.value.reason is UPSTREAM_MALFORMED


def test_fields_of_this_hop_end_here() -> None:
    head = parse(
        b"Connection: X-Named, set-cookie", b"X-Named: 1", b"Set-Cookie: a=b", b"set-cookie: c=d ",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: x", b"Upgrade: h2c", b"Content-Length: 3", b"Via: 1.1 x", b"Content_Length: 4",
        b"X-Forwarded-X: 1",
    )  # fmt: skip
    assert head.fields == [
        (b"Set-Cookie", b"a=b"), (b"set-cookie", b"c=d"), (b"Via", b"1.1 x"), (b"X-Forwarded-X", b"1"),
    ]  # fmt: skip
    assert head.body == 3 and head.keep_alive and head.upgrade is None


@pytest.mark.parametrize(
    ("lines", "line", "keep_alive"),
    [
        ([b"Content-Length: 1"], b"HTTP/1.1 200 OK", True),
        ([b"Transfer-Encoding: chunked"], b"HTTP/1.1 200 OK", True),
        ([], b"HTTP/1.1 200 OK", False),
        ([], b"HTTP/1.1 204 x", True),
        ([b"Connection: close", b"Content-Length: 1"], b"HTTP/1.1 200 OK", False),
        ([b"Connection: x", b"Connection: CLOSE", b"Content-Length: 1"], b"HTTP/1.1 200 OK", False),
        ([b"Content-Length: 1"], b"HTTP/1.0 200 OK", False),
        ([b"Connection: keep-alive", b"Content-Length: 1"], b"HTTP/1.0 200 OK", True),
        ([b"Connection: keep-alive, close", b"Content-Length: 1"], b"HTTP/1.0 200 OK", False),
        ([b"Connection: keep-alive"], b"HTTP/1.0 200 OK", False),
        ([b"Connection: upgrade", b"Upgrade: x"], b"HTTP/1.1 101 x", False),
    ],
)
def test_whether_the_connection_may_be_used_again(lines: list[bytes], line: bytes, keep_alive: bool) -> None:
    assert parse(*lines, line=line).keep_alive is keep_alive


def test_bodies() -> None:
    assert parse().body == UNTIL_CLOSE
    assert parse(b"Transfer-Encoding: Chunked").body == CHUNKED
    head = parse(b"Content-Length: 12", method=b"HEAD")
    assert (head.body, head.declared_length) == (0, 12)


def test_switching_protocols() -> None:
    assert parse(b"Upgrade: websocket", b"Connection: upgrade", line=b"HTTP/1.1 101 x").upgrade == b"websocket"
    assert parse(b"Connection: upgrade", line=b"HTTP/1.1 101 x").upgrade is None


def test_a_missing_date_is_noticed() -> None:
    assert parse(b"dATE: x").has_date and parse(b"dATE: x").fields == [(b"dATE", b"x")]
    assert not parse(b"X-Date: x").has_date


def test_serialized() -> None:
    head = ResponseHead(10, 404, b"Not Here", [(b"A", b"1")], body=5)
    assert serialize_response(head, 11, b"Content-Length: 5\r\n", b"Via: 1.0 x\r\n") == (
        b"HTTP/1.1 404 Not Here\r\nA: 1\r\nContent-Length: 5\r\nVia: 1.0 x\r\n\r\n"
    )
    assert serialize_response(ResponseHead(11, 200, b"", []), 10, b"", b"") == b"HTTP/1.1 200 \r\n\r\n"


def test_an_old_client_is_not_sent_what_it_cannot_read() -> None:
    with pytest.raises(ValueError):
        serialize_response(ResponseHead(11, 103, b"", []), 10, b"", b"")
    with pytest.raises(ValueError):
        serialize_response(ResponseHead(11, 200, b"", []), 10, b"Transfer-Encoding: chunked\r\n", b"")
