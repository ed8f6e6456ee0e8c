"""Request heads: what becomes of the fields, rule by rule, and of bytes that come in pieces."""

from __future__ import annotations

import pytest

from charon.base import errors
from charon.base.errors import BadMessage
from charon.wire.messages import (
    CHUNKED,
    HeadLimits,
    RequestHead,
    connection_lines,
    parse_request,
    serialize_request,
)

LIMITS = HeadLimits()


def parse(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"a.example") -> RequestHead:
    data = b"\r\n".join([line, b"Host: " + host, *lines, b"", b""])
    result = parse_request(data, LIMITS)
    assert result is not None and result[1] == len(data)
    return result[0]


def refusal(data: bytes, limits: HeadLimits = LIMITS) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        parse_request(data, limits)
    return caught.value


def test_a_minimal_request() -> None:
    head = parse()
    assert (head.method, head.target, head.path, head.version, head.host) == (b"GET", b"/", b"/", 11, b"a.example")
    assert head.fields == [] and head.forwarded is None and head.body == 0
    assert head.keep_alive and not head.expect_continue and head.upgrade is None and not head.te_trailers


def test_the_bytes_behind_the_head_are_not_taken() -> None:
    head = b"\r\nPOST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
    result = parse_request(head + b"abcGET /x\n", LIMITS)
    assert result is not None and result[1] == len(head) and result[0].body == 3


def test_values_are_trimmed_and_names_stay_as_sent() -> None:
    head = parse(b"X-a: \t b c \t", b"x-A:d", b"X-Empty:", b"X-Blank:  ")
    assert head.fields == [(b"X-a", b"b c"), (b"x-A", b"d"), (b"X-Empty", b""), (b"X-Blank", b"")]


@pytest.mark.parametrize(
    ("lines", "version", "keep_alive"),
    [
        ([], b"1.1", True),
        ([], b"1.0", False),
        ([b"Connection: close"], b"1.1", False),
        ([b"Connection: CLOSE"], b"1.1", False),
        ([b"Connection: Keep-Alive"], b"1.0", True),
        ([b"Connection: x , keep-alive"], b"1.0", True),
        ([b"Connection: keep-alive, close"], b"1.0", False),
        ([b"Connection: keep-alive", b"Connection: close"], b"1.1", False),
        ([b"Connection: ,, ,close,"], b"1.1", False),
        ([b"Connection: closed"], b"1.1", True),
        ([b"Connection:"], b"1.1", True),
        ([b"Proxy-Connection: close"], b"1.1", True),
    ],
)
def test_whether_the_connection_stays(lines: list[bytes], version: bytes, keep_alive: bool) -> None:
    head = parse(*lines, line=b"GET / HTTP/" + version)
    assert head.keep_alive is keep_alive and head.fields == []


def test_fields_of_this_hop_end_here() -> None:
    head = parse(
        b"Keep-Alive: 1", b"Proxy-Connection: x", b"TE: trailers", b"Upgrade: websocket", b"HTTP2-Settings: AAMAAABk",
        b"Proxy: http://evil.example", b"X-Named: 1", b"x-NAMED: 2", b"Connection: x-named, Http2-Settings",
        b"X-Kept: 1",
        b"Trailer: X-Sum", b"Proxy-Authorization: x",
    )  # fmt: skip
    assert head.fields == [(b"X-Kept", b"1"), (b"Trailer", b"X-Sum"), (b"Proxy-Authorization", b"x")]
    assert head.upgrade is None and not head.te_trailers


@pytest.mark.parametrize(
    "name",
    [b"Authorization", b"Cookie", b"Content-Type", b"Cache-Control", b"Range", b"Traceparent", b"If-None-Match"],
)
def test_connection_cannot_take_away_what_is_meant_for_all(name: bytes) -> None:
    assert parse(name + b": 1", b"Connection: close, " + name).fields == [(name, b"1")]


def test_connection_cannot_take_away_framing_routing_and_forwarding() -> None:
    head = parse(
        b"Content-Length: 5", b"X-Forwarded-For: 1.2.3.4", b"Via: 1.1 x",
        b"Connection: host, content-length, x-forwarded-for, via, transfer-encoding",
    )  # fmt: skip
    assert head.body == 5 and head.host == b"a.example"
    assert head.forwarded == [(b"x-forwarded-for", b"1.2.3.4"), (b"via", b"1.1 x")]


def test_the_forwarded_family_is_set_apart() -> None:
    head = parse(
        b"X-FORWARDED-for: 1", b"forwarded: for=2", b"X-Real-Ip: 3", b"X-Forwarded-Client-Cert: 4", b"X-Forwarded-: 5",
        b"X-Forwarded: 6", b"X-Forward: 7",
    )  # fmt: skip
    assert head.forwarded == [
        (b"x-forwarded-for", b"1"), (b"forwarded", b"for=2"), (b"x-real-ip", b"3"), (b"x-forwarded-client-cert", b"4"),
        (b"x-forwarded-", b"5"),
    ]  # fmt: skip
    assert head.fields == [(b"X-Forwarded", b"6"), (b"X-Forward", b"7")]


@pytest.mark.parametrize(
    "line",
    [b"Content_Length: 5", b"Transfer_Encoding: chunked", b"X_Forwarded_For: 1", b"X-Forwarded_For: 1", b"_x: 1",
     b"hOST_: evil", b"X_Real_IP: 1", b"Connection_: close", b"Proxy_Connection: close", b"HOST: b"],
)  # fmt: skip
def test_look_alikes_are_neither_obeyed_nor_passed_on(line: bytes) -> None:
    if line.startswith(b"HOST:"):
        assert refusal(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % line).reason is errors.BAD_HOST
        return
    head = parse(line)
    assert head.body == 0 and head.forwarded is None and head.keep_alive and head.host == b"a.example"
    ordinary = line.startswith((b"_x", b"hOST_", b"Connection_"))  # become no name of ours
    assert len(head.fields) == ordinary


@pytest.mark.parametrize(
    ("upgrade", "connection", "passed"),
    [
        (b"websocket", b"Upgrade", b"websocket"),
        (b"websocket", b"keep-alive, UPGRADE", b"websocket"),
        (b"foo/2, bar", b"upgrade", b"foo/2, bar"),
        (b"h2c, websocket", b"upgrade", b"websocket"),
        (b"h2c", b"Upgrade, HTTP2-Settings", None),
        (b"H2C", b"upgrade", None),
        (b"h2c-14", b"upgrade", None),
        (b"HTTP/2.0", b"upgrade", None),
        (b"TLS/1.0", b"upgrade", None),
        (b"web socket", b"upgrade", None),
        (b"", b"upgrade", None),
        (b"websocket", b"keep-alive", None),
    ],
)
def test_upgrades(upgrade: bytes, connection: bytes, passed: bytes | None) -> None:
    head = parse(b"Upgrade: " + upgrade, b"Connection: " + connection)
    assert head.upgrade == passed and head.fields == []


def test_an_upgrade_in_http_1_0_is_ignored() -> None:
    assert parse(b"Upgrade: websocket", b"Connection: upgrade", line=b"GET / HTTP/1.0").upgrade is None


def test_trailers_are_welcome_only_if_connection_says_te() -> None:
    assert parse(b"TE: gzip;q=0.5, Trailers", b"Connection: te").te_trailers
    assert not parse(b"TE: trailers", b"Connection: close").te_trailers
    assert not parse(b"TE: trailersx", b"Connection: te").te_trailers


@pytest.mark.parametrize(
    ("value", "version", "expected"),
    [(b"100-Continue", b"1.1", True), (b"100-continue", b"1.0", False), (b"anything", b"1.0", False)],
)
def test_expectations(value: bytes, version: bytes, expected: bool) -> None:
    head = parse(b"Expect: " + value, b"Content-Length: 1", line=b"PUT / HTTP/" + version)
    assert head.expect_continue is expected and head.fields == []


def test_other_expectations_are_refused() -> None:
    for value in (b"", b"200-ok", b"100-continue, x", b"100-continue;a"):
        data = b"GET / HTTP/1.1\r\nHost: a\r\nExpect: %b\r\n\r\n" % value
        assert refusal(data).reason is errors.EXPECTATION_FAILED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\x03\x01", errors.BAD_REQUEST),
        (b" ", errors.BAD_REQUEST),
        (b"\n", errors.BAD_REQUEST),
        (b"\r\n\r", errors.BAD_REQUEST),
        (b"\rG", errors.BAD_REQUEST),
        (b"GET / HTTP/1.1\n", errors.BAD_REQUEST),
        (b"GET / HTTP/1.1\rH", errors.BAD_REQUEST),
        (b"GET /\r\n", errors.BAD_REQUEST),
        (b"EHLO mail.example\r\n", errors.BAD_REQUEST),
        (b"SSH-2.0-OpenSSH_9.2\r\n", errors.BAD_REQUEST),
        (b"PRI * HTTP/2.0\r\n", errors.BAD_VERSION),
        (b"GET / HTTP/1.2\r\n", errors.BAD_VERSION),
        (b"GET / HTTP/1.1\r\nHost : a\r\n", errors.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\n Host: a\r\n", errors.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n", errors.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nA: b\nC", errors.BAD_REQUEST),
        (b"CONNECT a:443 HTTP/1.1\r\n", errors.METHOD_NOT_ALLOWED),
        (b"M" * 65, errors.BAD_REQUEST),
    ],
)
def test_what_is_wrong_is_said_before_the_head_is_complete(data: bytes, reason: errors.Reason) -> None:
    assert refusal(data).reason is reason


@pytest.mark.parametrize(
    "data",
    [b"", b"\r", b"\r\n", b"G", b"GET", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost",
     b"GET / HTTP/1.1\r\nHost: a\r", b"GET / HTTP/1.1\r\nHost: a\r\n\r", b"M" * 64, b"GET " + b"/" * 16384 + b"\r"],
)  # fmt: skip
def test_incomplete_so_far_and_nothing_wrong(data: bytes) -> None:
    assert parse_request(data, LIMITS) is None


SMALL = HeadLimits(max_header_bytes=80, max_headers=3, max_target_bytes=20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET /" + b"a" * 19 + b" HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /" + b"a" * 20 + b" HTTP/1.1\r\nHost: a\r\n\r\n", errors.URI_TOO_LONG),
        (b"GET /" + b"a" * 20, errors.URI_TOO_LONG),
        (b"GET /" + b"a" * 20 + b"\x00", errors.URI_TOO_LONG),
        (b"GET /" + b"a" * 18 + b"\x00", None),
        (b"GET / " + b"x" * 80, errors.URI_TOO_LONG),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 48 + b"\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 49 + b"\r\n\r\n", errors.HEADERS_TOO_LARGE),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 48 + b"\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 80, errors.HEADERS_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 80 + b"\n", errors.HEADERS_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \n" + b"x" * 80, errors.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\n\r\n", errors.HEADERS_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\nbad\r\n\r\n", errors.HEADERS_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nbad\r\nB:\r\nC:\r\n\r\n", errors.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n", errors.HEADERS_TOO_LARGE),
    ],
)
def test_limits(data: bytes, reason: errors.Reason | None) -> None:
    """The first fault by its place is the verdict: 414 for the target, 431 for the rest."""
    if reason is None:
        parse_request(data, SMALL)
    else:
        assert refusal(data, SMALL).reason is reason


@pytest.mark.parametrize(
    ("head", "extra", "expected"),
    [
        (RequestHead(b"GET", b"/", b"/", 11, b"h", []), b"", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (
            RequestHead(b"POST", b"/", b"/", 10, b"h", [(b"A", b"1"), (b"b", b"")]),
            b"Via: 1.0 x\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nA: 1\r\nb: \r\nContent-Length: 0\r\nVia: 1.0 x\r\n\r\n",
        ),
        (
            RequestHead(b"PUT", b"/", b"/", 11, b"h", [], body=7),
            b"",
            b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n",
        ),
        (
            RequestHead(b"GET", b"/", b"/", 11, b"", [], body=CHUNKED),
            b"",
            b"GET / HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    ],
)
def test_serialized(head: RequestHead, extra: bytes, expected: bytes) -> None:
    assert serialize_request(head, extra) == expected


@pytest.mark.parametrize(
    ("upgrade", "te", "lines"),
    [
        (None, False, b""),
        (None, True, b"Connection: TE\r\nTE: trailers\r\n"),
        (b"websocket", False, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (b"x/1", True, b"Connection: Upgrade, TE\r\nUpgrade: x/1\r\nTE: trailers\r\n"),
    ],
)
def test_what_the_next_hop_is_asked_for(upgrade: bytes | None, te: bool, lines: bytes) -> None:
    head = RequestHead(b"GET", b"/", b"/", 11, b"h", [], upgrade=upgrade, te_trailers=te)
    assert connection_lines(head) == lines
