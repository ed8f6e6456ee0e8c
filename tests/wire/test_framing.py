"""The body-length decision, line by line of its table."""

from __future__ import annotations

import pytest

from charon.base.errors import BAD_FRAMING, UNKNOWN_CODING, UPSTREAM_MALFORMED, BadMessage, Reason
from charon.wire.framing import CHUNKED, UNTIL_CLOSE, answer_framing, request_body, response_body

C = b"chunked"


@pytest.mark.parametrize(
    ("lengths", "codings", "version", "body"),
    [
        ([], [], 11, 0),
        ([], [], 10, 0),
        ([b"0"], [], 11, 0),
        ([b"5"], [], 10, 5),
        ([b"007"], [], 11, 7),
        ([b"9" * 18], [], 11, 10**18 - 1),
        ([], [C], 11, CHUNKED),
        ([], [b"CHUNKed"], 11, CHUNKED),
    ],
)
def test_clear_requests(lengths: list[bytes], codings: list[bytes], version: int, body: int) -> None:
    assert request_body(lengths, codings, version) == body


@pytest.mark.parametrize(
    ("lengths", "codings", "version", "reason"),
    [
        ([b"5", b"5"], [], 11, BAD_FRAMING),
        ([b"5", b"6"], [], 11, BAD_FRAMING),
        *(([value], [], 11, BAD_FRAMING) for value in (
            b"", b"+5", b"-5", b"5,5", b"5, 5", b"0x5", b"5 5", b"5_0", b"1e1", b"5.0", b"\xb25", b"\xd9\xa5", b"5;",
            b"5\n",
            b"1" * 19, b" 5",
        )),
        ([b"5"], [C], 11, BAD_FRAMING),
        ([b"0"], [C], 11, BAD_FRAMING),
        ([b"5"], [b"gzip"], 11, BAD_FRAMING),
        ([b"x"], [C], 11, BAD_FRAMING),
        ([], [C], 10, BAD_FRAMING),
        ([], [b"gzip"], 10, BAD_FRAMING),
        ([], [C, C], 11, BAD_FRAMING),
        ([], [b"gzip", C], 11, BAD_FRAMING),
        *(([], [value], 11, BAD_FRAMING) for value in (
            b"", b",", b",chunked", b"chunked,", b"chunked;", b"chunked;a=b", b"chunked ; a=b", b'"chunked"',
            b"chunked chunked",
            b"chunked\x00", b"\x0bchunked", b"chunked,chunked", b"chunked, gzip", b"gzip, chunked, chunked",
            b"x,,chunked",
            b"chunked\xa0", b"chunked\n",
        )),
        *(([], [value], 11, UNKNOWN_CODING) for value in (
            b"gzip", b"identity", b"xchunked", b"chunkedx", b"gzip, chunked", b"gzip ,\tchunked", b"a;b=c, chunked",
            b"identity, chunked", b"x-chunked",
        )),
    ],
)  # fmt: skip
def test_refused_requests(lengths: list[bytes], codings: list[bytes], version: int, reason: Reason) -> None:
    with pytest.raises(BadMessage) as caught:
        request_body(lengths, codings, version)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("lengths", "codings", "version", "status", "method", "result"),
    [
        ([], [], 11, 200, b"GET", (UNTIL_CLOSE, None)),
        ([], [], 10, 200, b"GET", (UNTIL_CLOSE, None)),
        ([b"5"], [], 11, 200, b"GET", (5, 5)),
        ([b"0"], [], 11, 200, b"GET", (0, 0)),
        ([], [C], 11, 200, b"GET", (CHUNKED, None)),
        ([b"5"], [], 11, 200, b"HEAD", (0, 5)),
        ([], [C], 11, 200, b"HEAD", (0, None)),
        ([], [], 11, 200, b"HEAD", (0, None)),
        ([], [], 11, 200, b"head", (UNTIL_CLOSE, None)),
        ([b"5"], [], 11, 304, b"GET", (0, 5)),
        ([], [C], 11, 304, b"GET", (0, None)),
        ([], [], 11, 304, b"GET", (0, None)),
        ([], [], 11, 204, b"GET", (0, None)),
        ([b"0"], [], 11, 204, b"GET", (0, None)),
        ([], [], 11, 100, b"GET", (0, None)),
        ([b"0"], [], 11, 101, b"GET", (0, None)),
        ([b"0"], [], 11, 205, b"GET", (0, 0)),
        ([], [], 11, 500, b"POST", (UNTIL_CLOSE, None)),
    ],
)
def test_clear_responses(
    lengths: list[bytes], codings: list[bytes], version: int, status: int, method: bytes, result: tuple[int, int | None]
) -> None:
    assert response_body(lengths, codings, version, status, method) == result


@pytest.mark.parametrize(
    ("lengths", "codings", "version", "status", "method"),
    [
        ([b"5"], [], 11, 204, b"GET"),
        ([b"5"], [], 11, 100, b"GET"),
        ([b"5"], [], 11, 101, b"GET"),
        ([], [C], 11, 204, b"GET"),
        ([], [C], 11, 103, b"GET"),
        ([b"5"], [], 11, 204, b"HEAD"),
        ([b"5", b"5"], [], 11, 200, b"GET"),
        ([b"5"], [C], 11, 200, b"GET"),
        ([b"5"], [C], 11, 200, b"HEAD"),
        ([], [C], 10, 200, b"GET"),
        ([], [b"gzip, chunked"], 11, 200, b"GET"),
        ([], [b"gzip"], 11, 304, b"GET"),
        ([b"+5"], [], 11, 200, b"GET"),
    ],
)
def test_refused_responses(
    lengths: list[bytes], codings: list[bytes], version: int, status: int, method: bytes
) -> None:
    with pytest.raises(BadMessage) as caught:
        response_body(lengths, codings, version, status, method)
    assert caught.value.reason is UPSTREAM_MALFORMED


@pytest.mark.parametrize(
    ("body", "declared", "status", "method", "version", "result"),
    [
        (5, 5, 200, b"GET", 11, (b"Content-Length: 5\r\n", 5)),
        (0, 0, 200, b"GET", 10, (b"Content-Length: 0\r\n", 0)),
        (CHUNKED, None, 200, b"GET", 11, (b"Transfer-Encoding: chunked\r\n", CHUNKED)),
        (UNTIL_CLOSE, None, 200, b"GET", 11, (b"Transfer-Encoding: chunked\r\n", CHUNKED)),
        (CHUNKED, None, 200, b"GET", 10, (b"", UNTIL_CLOSE)),
        (UNTIL_CLOSE, None, 200, b"GET", 10, (b"", UNTIL_CLOSE)),
        (0, 7, 200, b"HEAD", 11, (b"Content-Length: 7\r\n", 0)),
        (0, None, 200, b"HEAD", 11, (b"", 0)),
        (0, 7, 304, b"GET", 11, (b"Content-Length: 7\r\n", 0)),
        (0, None, 204, b"GET", 11, (b"", 0)),
        (0, None, 101, b"GET", 11, (b"", 0)),
    ],
)
def test_how_the_client_gets_it(
    body: int, declared: int | None, status: int, method: bytes, version: int, result: tuple[bytes, int]
) -> None:
    assert answer_framing(body, declared, status, method, version) == result
