"""The chunked transfer coding (RFC 9112 7.1), strict in, plain out.

Chunk extensions are checked against their grammar and then forgotten: they belong to one hop (RFC 9112 7.1.1). The
decoder keeps only unfinished lines, never data, and hands data out as views of what it was fed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from charon.base.errors import HEADERS_TOO_LARGE, BadMessage, Blame, Reason
from charon.wire import faults, grammar, headers
from charon.wire.limits import HeadLimits

# Bytes of one chunk's size line with its extensions and CRLF. The longest known extension, a signature, has 85.
MAX_LINE_BYTES: Final = 4096

# Bytes of extensions that a body may bring before they must stay in proportion to its data: more extension bytes than
# data beyond this is a flood that costs the receiver and carries nothing.
MAX_FREE_EXTENSION_BYTES: Final = 16_384

# Data from this size on is handed out as a view; a small piece is cheaper copied than viewed.
_VIEW_FROM: Final = 1024

_SIZE, _DATA, _DATA_END, _TRAILERS, _END = range(5)

_HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")
_match_line = grammar.CHUNK_LINE.fullmatch


class ChunkedDecoder:
    """Takes a chunked body apart, fed in any pieces.

    ``done`` turns true with the last byte of the message; then ``trailers`` holds the trailer fields that may be
    passed on (RFC 9110 6.5.1; others are dropped), and ``leftover`` what was fed beyond the end. Every violation raises
    :class:`BadMessage` with the ``reason`` given, but a client's trailer section over the limits HEADERS_TOO_LARGE;
    after that the decoder must not be fed again.
    """

    __slots__ = ("_data_bytes", "_extension_bytes", "_limits", "_partial", "_reason", "_remaining", "_state",
                 "done", "leftover", "trailers")  # fmt: skip

    def __init__(self, reason: Reason, limits: HeadLimits) -> None:
        self._reason = reason
        self._limits = limits
        self._state = _SIZE
        self._partial = b""
        self._remaining = 0
        self._data_bytes = 0
        self._extension_bytes = 0
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self.leftover = b""

    def __repr__(self) -> str:
        return f"<ChunkedDecoder state={self._state} remaining={self._remaining} done={self.done}>"

    def _bad(self, detail: str) -> BadMessage:
        return BadMessage(self._reason, detail)

    def feed(self, data: bytes) -> list[bytes | memoryview]:
        """The decoded pieces of ``data``, in order; a large piece is a view of it. Raises :class:`BadMessage`.

        Raises ValueError when the body has already ended.
        """
        if self.done:
            raise ValueError("the body has ended")
        if self._partial:
            if self._state == _TRAILERS and b"\n" not in data and b"\r" not in data and self._has_room(data):
                self._partial += data  # within a line nothing can be decided: do not look at each dripped byte
                return []
            data = self._partial + data
            self._partial = b""
        pieces: list[bytes | memoryview] = []
        position, end = 0, len(data)
        while position < end:
            state = self._state
            if state == _DATA:
                stop = min(position + self._remaining, end)
                pieces.append(data[position:stop] if stop - position < _VIEW_FROM else memoryview(data)[position:stop])
                self._remaining -= stop - position
                position = stop
                if not self._remaining:
                    self._state = _DATA_END
            elif state == _DATA_END:
                if not data.startswith(b"\r\n", position):
                    if data[position] == 13 and position + 1 == end:
                        self._partial = b"\r"
                        break
                    raise self._bad("no CRLF behind the data of a chunk")
                position += 2
                self._state = _SIZE
            elif state == _SIZE:
                line_end = data.find(b"\r\n", position, position + MAX_LINE_BYTES)
                if line_end < 0:
                    self._partial = self._unfinished_line(data[position : position + MAX_LINE_BYTES])
                    break
                self._size_line(data[position:line_end])
                position = line_end + 2
            else:
                self._trailer_section(data[position:])
                break
        return pieces

    def _has_room(self, data: bytes) -> bool:
        """Whether a trailer section that grows by ``data`` stays within its limit; the line before may end in CR."""
        return self._partial[-1] != 13 and len(self._partial) + len(data) <= self._limits.max_header_bytes

    def _unfinished_line(self, line: bytes) -> bytes:
        if line[0] not in _HEX_DIGITS:
            raise self._bad("a chunk has no size")
        if faults.bare_line_break(line):
            raise self._bad("a bare CR or LF in a chunk's size line")
        if len(line) >= MAX_LINE_BYTES:
            raise self._bad("a chunk's size line is too long")
        return line

    def _size_line(self, line: bytes) -> None:
        match = _match_line(line)
        if match is None:
            raise self._bad("a chunk's size line is malformed")
        size = int(match[1], 16)
        if match[2]:
            self._extension_bytes += len(match[2])
            if self._extension_bytes > MAX_FREE_EXTENSION_BYTES + self._data_bytes:
                raise self._bad("more chunk extensions than data")
        if size:
            self._remaining = size
            self._data_bytes += size
            self._state = _DATA
        else:
            self._state = _TRAILERS

    def _trailer_section(self, section: bytes) -> None:
        """Take the trailer section that begins ``section`` if it is complete, else keep it."""
        match = grammar.FIELD_LINES.match(section)
        assert match is not None, "the pattern matches nothing at least"
        good_end = match.end()
        complete = section.startswith(b"\r\n", good_end)
        if (
            not complete
            or good_end + 2 > self._limits.max_header_bytes
            or section.count(b"\r\n", 0, good_end) > self._limits.max_headers
        ):
            too_large = HEADERS_TOO_LARGE if self._reason.blame is Blame.CLIENT else self._reason
            fault = faults.trailer_fault(section, self._limits, self._reason, too_large)
            if fault is not None:
                raise fault
            assert not complete, "what is too large is a fault"
            self._partial = section
            return
        self.trailers = [
            (name, value.rstrip(b" \t"))
            for name, value in grammar.SPLIT_FIELDS.findall(section[:good_end])
            if headers.allowed_trailer(name)
        ]
        self.leftover = section[good_end + 2 :]
        self.done = True
        self._state = _END


def encode_chunk(piece: bytes) -> bytes:
    """``piece`` as one chunk. Nothing for no data: an empty chunk would be the last."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def encode_last(trailers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The last chunk with its trailer section. ``trailers`` are as a decoder gave them out."""
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % field for field in trailers])
