"""Message bodies as they stream: framing taken off on one side, put on again on the other (RFC 9112 section 6).

Trust: the bytes are a peer's; chunk framing is checked by the strict decoder of :mod:`charon.wire.chunked`.
"""

from __future__ import annotations

from typing import Final

from charon.base.errors import Reason
from charon.net.flow import Flow
from charon.net.stream import READ_SIZE, Stream
from charon.wire.chunked import ChunkedDecoder
from charon.wire.messages import CHUNKED, UNTIL_CLOSE, HeadLimits

_BULK: Final = 1 << 18
"""Bytes still to come of a body for which a way for bulk is made."""


class BodyTruncated(Exception):
    """The connection ended before the body did."""


class BodyReader:
    """Reads one body from ``stream``; ``buffer`` holds what was read of it along with its head.

    ``size`` counts the decoded bytes handed out. After ``done``, ``leftover`` holds bytes beyond the message.
    """

    __slots__ = ("_buffer", "_decoder", "_left", "done", "leftover", "size", "stream")

    def __init__(self, stream: Stream, length: int, buffer: bytes, malformed: Reason, limits: HeadLimits) -> None:
        self.stream = stream
        self._buffer = buffer
        self._left = length
        self._decoder = ChunkedDecoder(malformed, limits) if length == CHUNKED else None
        self.done = length == 0
        self.leftover = buffer if length == 0 else b""
        self.size = 0

    @property
    def trailers(self) -> list[tuple[bytes, bytes]]:
        """Trailer fields that may be passed on; complete once ``done``."""
        return self._decoder.trailers if self._decoder is not None else []

    def next(self, patience: float) -> bytes:
        """The next bytes of the body, as soon as there are any; ``b""`` only when it is ``done``.

        Raises BodyTruncated, BadMessage (malformed chunks), DeadlineExceeded or OSError.
        """
        while not self.done:
            data = self._buffer
            if data:
                self._buffer = b""
            else:
                data = self.stream.read(patience, READ_SIZE if self._left < 0 else min(self._left, READ_SIZE))
                if not data:
                    self._ended()
                    break
            piece = self._decode(data)
            if piece:
                self.size += len(piece)
                return piece
        return b""

    def flow_to(self, target: Stream) -> Flow | None:
        """The way for the rest of the body, for :meth:`take`, to be closed at its end; None where it would gain
        nothing: a body of chunks, a small one, or one side that is TLS.
        """
        if self._decoder is not None or self._buffer or 0 <= self._left < _BULK:
            return None
        if not (self.stream.splices and target.splices):
            return None
        return Flow(self.stream, target, bulk=self._left != UNTIL_CLOSE)

    def take(self, flow: Flow, patience: float) -> bytes | int:
        """As :meth:`next`, for ``flow`` to give. What follows the body is left where it is."""
        left = self._left
        taken = flow.take(patience) if left == UNTIL_CLOSE else flow.take(patience, left)
        count = taken if isinstance(taken, int) else len(taken)
        if not count:
            self._ended()
            return b""
        self.size += count
        if left != UNTIL_CLOSE:
            self._left = left - count
            self.done = count == left
        return taken

    def buffered(self) -> bytes:
        """The part of the body that came along with the head, without reading."""
        data, self._buffer = self._buffer, b""
        piece = self._decode(data) if data and not self.done else b""
        self.size += len(piece)
        return piece

    def _decode(self, data: bytes) -> bytes:
        if self._decoder is not None:
            pieces = self._decoder.feed(data)
            if self._decoder.done:
                self.done = True
                self.leftover = self._decoder.leftover
            return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
        if self._left == UNTIL_CLOSE:
            return data
        if len(data) >= self._left:
            self.done = True
            if len(data) > self._left:
                self.leftover = data[self._left :]
                data = data[: self._left]
            self._left = 0
            return data
        self._left -= len(data)
        return data

    def _ended(self) -> None:
        if self._left != UNTIL_CLOSE:
            raise BodyTruncated
        self.done = True
