"""The chunked coding: fed in every split, refused in every split, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.errors import BAD_CHUNK, HEADERS_TOO_LARGE, UPSTREAM_MALFORMED, BadMessage, Reason
from charon.wire.chunked import (
    MAX_FREE_EXTENSION_BYTES,
    MAX_LINE_BYTES,
    ChunkedDecoder,
    encode_chunk,
    encode_last,
)
from charon.wire.limits import HeadLimits

LIMITS = HeadLimits()
Result = tuple[bytes, list[tuple[bytes, bytes]], bytes]

LAST_CHUNK = b"0\r\n\r\n"


def decode(pieces: list[bytes], reason: Reason = BAD_CHUNK, limits: HeadLimits = LIMITS) -> Result | None:
    """Content, trailers and what is left over (with the pieces not fed); None when the end has not come."""
    decoder = ChunkedDecoder(reason, limits)
    content = b""
    for index, piece in enumerate(pieces):
        content += b"".join(decoder.feed(piece))
        if decoder.done:
            return content, decoder.trailers, decoder.leftover + b"".join(pieces[index + 1 :])
    return None


def refusal(pieces: list[bytes], limits: HeadLimits = LIMITS) -> Reason:
    with pytest.raises(BadMessage) as caught:
        decode(pieces, limits=limits)
    return caught.value.reason


def single(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


GOOD = [
    (b"0\r\n\r\n", (b"", [])),
    (b"5\r\nhello\r\n0\r\n\r\n", (b"hello", [])),
    (b"3\r\n\r\n0\r\n2\r\n\r\n\r\n000\r\n\r\n", (b"\r\n0\r\n", [])),
    (b"00000000000000a\r\n0123456789\r\n0\r\n\r\n", (b"0123456789", [])),
    (b'1;a;b=c ; d\t=\t"e;\\"\xff" \t;f\r\nx\r\n0;z\r\n\r\n', (b"x", [])),
    (b"1\r\nx\r\n0\r\nX-Sum: \t1 \r\nx:\r\n\r\n", (b"x", [(b"X-Sum", b"1"), (b"x", b"")])),
    (b"0\r\nHost: a\r\nContent_Length: 1\r\nX-Forwarded-For: 1\r\nETag: 2\r\n\r\n", (b"", [(b"ETag", b"2")])),
]


@pytest.mark.parametrize(("data", "expected"), GOOD)
def test_every_split_in_two_gives_the_same(data: bytes, expected: tuple[bytes, list[tuple[bytes, bytes]]]) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n\r\n"):
        whole = data + rest
        for cut in range(len(whole) + 1):
            assert decode([whole[:cut], whole[cut:]]) == (*expected, rest)
        assert decode(single(whole)) == (*expected, rest)


@pytest.mark.parametrize(("data", "_"), GOOD)
def test_nothing_less_is_the_whole(data: bytes, _: object) -> None:
    for cut in range(len(data)):
        assert decode([data[:cut]]) is None


BAD = [
    b"g\r\n", b"\r\n", b" 5\r\n", b"5 \r\n", b"5\n", b"5\rx", b"5\r\r\n", b"+5\r\n", b"-5\r\n", b"0x5\r\n",
    b"5_0\r\n", b"5,\r\n",
    b"\xb2\r\n", b"1" * 17 + b"\r\n", b"0" * 17 + b"\r\n", b";a\r\n", b"5;\r\n", b"5;;a\r\n", b"5;=a\r\n",
    b"5;a=\r\n", b"5;a b\r\n",
    b'5;a="b\r\n', b'5;a="b"c\r\n', b'5;a="\\\r\n', b'5;a="\x00"\r\n', b"5;a=b\nc\r\n", b"5;\x00\r\n",
    b"1\r\nxy\r\n", b"1\r\nx\n", b"1\r\nx\rx", b"1\r\nx0\r\n", b"2\r\nx\r\n0\r\n\r\n",
    b"0\r\n\n", b"0\r\n\rx", b"0\r\nA: b\n", b"0\r\nA\r\n", b"0\r\n A: b\r\n", b"0\r\nA : b\r\n",
    b"0\r\nA: b\r\n c\r\n",
    b"0\r\nA: \x00\r\n", b"0\r\nGET / HTTP/1.1\r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", BAD)
def test_refused_in_every_split(data: bytes) -> None:
    more = b"\r\n0\r\n\r\n"
    for cut in range(len(data) + 1):
        assert refusal([data[:cut], data[cut:]]) is BAD_CHUNK
        assert refusal([data[:cut], data[cut:] + more]) is BAD_CHUNK
    assert refusal(single(data)) is BAD_CHUNK


def test_the_reason_is_the_peers() -> None:
    with pytest.raises(BadMessage) as caught:
        decode([b"x"], UPSTREAM_MALFORMED)
    assert caught.value.reason is UPSTREAM_MALFORMED


@pytest.mark.parametrize("pieces", [lambda data: [data], single], ids=["whole", "bytes"])
class TestBounds:
    def test_a_size_line(self, pieces: object) -> None:
        assert callable(pieces)
        fits = b"1;" + b"a" * (MAX_LINE_BYTES - 4) + b"\r\n"
        assert decode(pieces(fits + b"x\r\n" + LAST_CHUNK)) == (b"x", [], b"")
        assert refusal(pieces(fits.replace(b"\r\n", b"a\r\n"))) is BAD_CHUNK
        assert refusal(pieces(b"1;" + b"a" * MAX_LINE_BYTES)) is BAD_CHUNK

    def test_extensions_in_all(self, pieces: object) -> None:
        assert callable(pieces)
        extension = b";" + b"a" * 1023
        count = MAX_FREE_EXTENSION_BYTES // 1024
        chunk = b"1%b\r\nx\r\n" % extension
        assert decode(pieces(chunk * count + LAST_CHUNK)) == (b"x" * count, [], b"")
        assert refusal(pieces(chunk * (count + 1))) is BAD_CHUNK
        # In proportion to the data, any number of them is fine.
        fair = b"400%b\r\n%b\r\n" % (extension, b"x" * 1024)
        assert decode(pieces(fair * (2 * count) + LAST_CHUNK)) == (b"x" * 1024 * 2 * count, [], b"")

    def test_trailers(self, pieces: object) -> None:
        assert callable(pieces)
        limits = HeadLimits(max_header_bytes=40, max_headers=2)
        assert decode(pieces(b"0\r\nA: b\r\nC: d\r\n\r\nGET"), limits=limits) is not None
        assert refusal(pieces(b"0\r\nA: b\r\nC: d\r\nE: f\r\n\r\n"), limits) is HEADERS_TOO_LARGE
        assert refusal(pieces(b"0\r\nA: " + b"b" * 40), limits) is HEADERS_TOO_LARGE
        assert refusal(pieces(b"0\r\nA: " + b"b" * 40 + b"\n"), limits) is HEADERS_TOO_LARGE
        assert refusal(pieces(b"0\r\nA: \n" + b"b" * 40), limits) is BAD_CHUNK

    def test_trailers_of_an_upstream(self, pieces: object) -> None:
        assert callable(pieces)
        with pytest.raises(BadMessage) as caught:
            decode(pieces(b"0\r\nA: b\r\nC: d\r\n\r\n"), UPSTREAM_MALFORMED, HeadLimits(max_headers=1))
        assert caught.value.reason is UPSTREAM_MALFORMED


@pytest.mark.parametrize(
    "name",
    [b"Transfer-Encoding", b"content-length", b"HOST", b"Connection", b"TE", b"Trailer", b"Upgrade", b"Authorization",
     b"Cookie", b"Set-Cookie", b"Content-Type", b"Content-Encoding", b"Content-Range", b"Cache-Control", b"Location",
     b"Range",
     b"Expect", b"Max-Forwards", b"Via", b"Forwarded", b"X-Forwarded-Anything", b"Transfer_Encoding", b"X-Real-IP"],
)  # fmt: skip
def test_what_is_no_trailer_is_dropped(name: bytes) -> None:
    assert decode([b"0\r\n%b: 1\r\ngrpc-status: 0\r\n\r\n" % name]) == (b"", [(b"grpc-status", b"0")], b"")


def test_large_data_is_viewed_not_copied() -> None:
    decoder = ChunkedDecoder(BAD_CHUNK, LIMITS)
    assert decoder.feed(b"100000\r\n") == []
    data = bytes(65_536)
    for _ in range(16):
        (piece,) = decoder.feed(data)
        assert isinstance(piece, memoryview) and piece.obj is data
    assert decoder.feed(b"\r\n0\r\n\r\n") == [] and decoder.done


def test_an_ended_body_takes_no_more() -> None:
    decoder = ChunkedDecoder(BAD_CHUNK, LIMITS)
    decoder.feed(LAST_CHUNK)
    with pytest.raises(ValueError):
        decoder.feed(b"x")


def test_no_data_is_no_chunk() -> None:
    assert encode_chunk(b"") == b""
    assert encode_last([]) == LAST_CHUNK
    assert encode_last([(b"A", b"b")]) == b"0\r\nA: b\r\n\r\n"


@given(
    st.lists(st.lists(st.binary(max_size=20), max_size=3), max_size=4),
    st.lists(st.tuples(st.sampled_from([b"X-A", b"grpc-status"]), st.sampled_from([b"", b"0", b"a b"])), max_size=3),
    st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=5),
    st.binary(max_size=5),
)
def test_there_and_back(
    chunks: list[list[bytes]], trailers: list[tuple[bytes, bytes]], steps: list[int], behind: bytes
) -> None:
    """Whatever is encoded is decoded to the same, in pieces of any sizes."""
    encoded = b"".join(encode_chunk(b"".join(pieces)) for pieces in chunks) + encode_last(trailers) + behind
    pieces, place, turn = [], 0, 0
    while place < len(encoded):
        step = steps[turn % len(steps)]
        pieces.append(encoded[place : place + step])
        place, turn = place + step, turn + 1
    assert decode(pieces) == (b"".join(b"".join(chunk) for chunk in chunks), trailers, behind)
