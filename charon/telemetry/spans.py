"""Finished spans, from workers to the process that exports them: plain values, a line of JSON each.

Workers know nothing of the libraries that speak to collectors, which would hold more memory than all the rest of a
worker. They hand spans over as datagrams of lines, written without ever waiting: what the other side is too slow to
take waits here, up to a bound, and is then dropped and counted.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Final, NamedTuple

import orjson

Attributes = dict[str, str | int]

MAX_TEXT: Final = 1000
"""Characters of a text that a peer chose (a path, a name) that are shown."""

MAX_WAITING: Final = 2048
"""Spans that wait in one worker: at a thousand a second, two seconds in which nobody takes any."""

DATAGRAM_BYTES: Final = 24_000
"""Lines are handed over in datagrams of about this size; with the longest line behind it one still fits."""


class DropReason:
    """Why a span was given up, as ``charon_trace_spans_dropped_total`` says it."""

    WORKER_QUEUE: Final = "worker_queue_full"
    EXPORTER_QUEUE: Final = "exporter_queue_full"
    UNREACHABLE: Final = "collector_unreachable"
    REFUSED: Final = "collector_refused"
    SHUTDOWN: Final = "shutdown"
    MALFORMED: Final = "malformed"


class Span(NamedTuple):
    """One finished span. Ids are lower-case hex, ``parent_id`` empty for the first of a trace; ``remote`` says that the
    parent is not Charon's. ``server`` tells a span for the client's request from one for a try at an endpoint.
    ``start`` and ``end`` are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    remote: bool
    state: str
    server: bool
    name: str
    start: int
    end: int
    error: bool
    attributes: Attributes


_FIELDS: Final = tuple(Span.__annotations__)
_LARGEST: Final = 1 << 63


def encode(span: Span) -> bytes:
    """One line."""
    return orjson.dumps(tuple(span), option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes) -> Span:
    """A span from a line. ValueError when it is none; a worker touches peers' bytes and is not trusted with more."""
    values: Any = orjson.loads(line)
    if not isinstance(values, list) or len(values) != len(_FIELDS):
        raise ValueError("not the fields of a span")
    span = Span(*values)
    texts = (span.trace_id, span.span_id, span.parent_id, span.state, span.name)
    flags = (span.remote, span.server, span.error)
    well_formed = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(flag, bool) for flag in flags)
        and all(type(time) is int and 0 <= time < _LARGEST for time in (span.start, span.end))
        and isinstance(span.attributes, dict)
        and all(type(v) is str or (type(v) is int and -_LARGEST < v < _LARGEST) for v in span.attributes.values())
    )
    if not well_formed or not (0 < int(span.trace_id, 16) < 1 << 128 and 0 < int(span.span_id, 16) < 1 << 64):
        raise ValueError("not the values of a span")
    if span.parent_id and not 0 < int(span.parent_id, 16) < 1 << 64:
        raise ValueError("not the id of a parent")
    return span


class SpanOutbox:
    """A worker's spans on their way out through ``fd``, a non-blocking datagram socket. ``dropped`` only grows."""

    def __init__(self, fd: int) -> None:
        self.dropped = 0
        self._fd = fd
        self._lines = bytearray()
        self._count = 0
        self._ready: deque[tuple[bytes, int]] = deque()
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<SpanOutbox waiting={self._waiting} dropped={self.dropped}>"

    def add(self, span: Span) -> None:
        """Queue one span; dropped and counted when there is no room."""
        if self._waiting >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting += 1
        self._count += 1
        self._lines += encode(span)
        if len(self._lines) >= DATAGRAM_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand over what can be handed over now; called every moment, so that spans do not wait for company."""
        if self._count:
            self._ready.append((bytes(self._lines), self._count))
            self._lines.clear()
            self._count = 0
        while self._ready:
            datagram, count = self._ready[0]
            try:
                os.write(self._fd, datagram)
            except BlockingIOError:
                return  # its queue is full: later
            except OSError:
                self.dropped += count  # the kernel has no memory, or nobody can read there any more
            self._ready.popleft()
            self._waiting -= count
