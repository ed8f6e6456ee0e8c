"""Chunked bodies, in any pieces, against a second, naive reading of what was accepted."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from zlib import crc32

from charon.base.errors import BAD_CHUNK, HEADERS_TOO_LARGE, UPSTREAM_MALFORMED, BadMessage, Reason
from charon.wire.chunked import ChunkedDecoder, encode_chunk, encode_last
from charon.wire.limits import HeadLimits
from scripts.fuzzlib import seeds
from scripts.fuzzlib.target import Target, add, expect

LIMITS = (HeadLimits(), HeadLimits(max_header_bytes=64, max_headers=3))

Trailers = list[tuple[bytes, bytes]]


class _Read:
    """What came of feeding a decoder. ``why`` is set when it was refused."""

    def __init__(self, pieces: Iterable[bytes], reason: Reason, limits: HeadLimits) -> None:
        decoder = ChunkedDecoder(reason, limits)
        self.content = bytearray()
        self.why: BadMessage | None = None
        self.used = 0
        fed = b""
        try:
            for piece in pieces:
                fed += piece
                for part in decoder.feed(piece):
                    self.content += part
                if decoder.done:
                    break
        except BadMessage as bad:
            self.why = bad
            self.content.clear()  # how much came before depends on the pieces, and nobody keeps it
        self.done = decoder.done
        self.trailers = decoder.trailers
        if decoder.done:
            self.used = len(fed) - len(decoder.leftover)
            expect(decoder.leftover == fed[self.used :], "what is left over is not the end of what was fed")

    def shown(self) -> Hashable:
        return (self.why and self.why.reason, bytes(self.content), self.done, tuple(self.trailers), self.used)


def _in_pieces(data: bytes) -> Iterable[bytes]:
    """Pieces of sizes that follow from the data: some of one byte, some of many."""
    number = crc32(data)
    largest = (1, 3, 16, 200)[number & 3]
    start = 0
    while start < len(data):
        number = (number * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        size = 1 + (number >> 16) % largest
        yield data[start : start + size]
        start += size


def _read_naively(data: bytes) -> tuple[bytes, int]:
    """Content and length of a body that was accepted."""
    content, at = b"", 0
    while True:
        line, found, _ = data[at:].partition(b"\r\n")
        expect(found, "a size line without an end")
        expect(
            not line.translate(None, bytes(range(32, 127)) + b"\t" + bytes(range(128, 256))), "controls in {!r}", line
        )
        digits = line.partition(b";")[0].rstrip(b" \t")
        expect(digits.isalnum() and len(digits) <= 16, "a size that is none: {!r}", line)
        size = int(digits, 16)
        at += len(line) + 2
        if size == 0:
            break
        content += data[at : at + size]
        expect(data[at + size : at + size + 2] == b"\r\n", "no line break behind the data")
        at += size + 2
    while True:
        line, found, _ = data[at:].partition(b"\r\n")
        expect(found and b"\r" not in line and b"\n" not in line and b"\0" not in line, "a trailer line {!r}", line)
        at += len(line) + 2
        if not line:
            return content, at


def check(data: bytes) -> Hashable:
    """A chunked body, fed at once, in pieces, and, when it is short, byte by byte."""
    number = crc32(data)
    limits = LIMITS[number >> 31]
    reason = BAD_CHUNK if number >> 30 & 1 else UPSTREAM_MALFORMED
    whole = _Read((data,), reason, limits)
    if whole.why is not None:
        expected = (reason, HEADERS_TOO_LARGE) if reason is BAD_CHUNK else (reason,)
        expect(whole.why.reason in expected, "refused for another reason: {}", whole.why.reason)
    ways = [_in_pieces(data)]
    if len(data) <= 48:
        ways.append(data[at : at + 1] for at in range(len(data)))
    for pieces in ways:
        other = _Read(pieces, reason, limits)
        expect(other.shown() == whole.shown(), "in pieces {}, whole {}", other.shown(), whole.shown())
    if whole.why is not None:
        return whole.why.detail
    if not whole.done:
        return "incomplete"
    content, used = _read_naively(data)
    expect((content, used) == (whole.content, whole.used), "{!r}, {} bytes, was {}", content, used, whole.shown())
    _goes_on(content, whole.trailers)
    return "accepted", len(whole.trailers), bool(content)


def _goes_on(content: bytes, trailers: Trailers) -> None:
    middle = len(content) // 3
    written = encode_chunk(content[:middle]) + encode_chunk(content[middle:]) + encode_last(trailers)
    again = _Read((written,), BAD_CHUNK, HeadLimits(max_header_bytes=1 << 20, max_headers=1000))
    expect(again.why is None and again.done and again.used == len(written), "what is written is not read")
    expect((bytes(again.content), again.trailers) == (content, trailers), "what is written is read as another body")


_WORDS = (
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"0\r\n\r\n", b"0\r\n", b"5\r\nhello\r\n", b"1\r\na\r\n", b"00",
    b"ffffffffffffffff",
    b"10000000000000000", b"0x", b"+1", b"-1", b";", b";a=b", b';a="b"', b';a="\\""', b' ; a = "\x80"',
    b"Name: value\r\n",
    b"Content-Length: 3\r\n", b"ETag: a\r\n", b" ", b"\t", b":", b'"', b"\\", b"\0", b"F", b"f",
)  # fmt: skip

add(Target("chunked", "chunked bodies, in pieces", check, seeds.bodies, _WORDS))
