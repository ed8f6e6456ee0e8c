"""Tracing in a worker: which trace a request belongs to, whether its spans are made, and what is sent on.

Whether a request is sampled is decided first, by its caller's word or by its trace id; a request that is not costs
reading and writing a header field and nothing else.
"""

from __future__ import annotations

from os import urandom
from typing import Final

from charon.base.clock import Clock
from charon.config.snapshot import TracingSpec
from charon.telemetry.spans import Attributes, Span, SpanOutbox
from charon.wire.messages import RequestHead
from charon.wire.tracecontext import Fields, extract, trace_fields, without_trace_fields, written

_ALL: Final = 1 << 64
_TRACE_DIGITS: Final = 32
_SPAN_DIGITS: Final = 16
_STOCK: Final = 3 * 512
"""Random bytes that are fetched at once. That an id is all zeros, which would be none, is as likely as that two are the
same."""

_NO_FIELDS: Final[Fields] = []


class Tracer:
    """What a snapshot says of tracing. Spans go to ``outbox``."""

    __slots__ = ("_below", "_digits", "_used", "clock", "formats", "outbox", "spec")

    def __init__(self, spec: TracingSpec, outbox: SpanOutbox, clock: Clock) -> None:
        self.spec = spec
        self.formats = spec.propagation
        self.outbox = outbox
        self.clock = clock
        # As OpenTelemetry's ratio sampler has it, so that all who sample by trace id choose the same traces.
        bound = round(spec.sample_ratio * _ALL)
        self._below = f"{bound:016x}" if bound < _ALL else "g"  # what no digits come after
        self._digits = ""
        self._used = 0

    def begin(self, head: RequestHead) -> Trace:
        """The trace that a request belongs to: its caller's, or a new one."""
        sampled: bool | None = None
        if head.traced:
            context = extract(trace_fields(head.fields))
            if context is not None:
                trace_id, parent_id, sampled, state = context
                if trace_id:
                    if sampled is None:
                        sampled = trace_id[16:] < self._below
                    return Trace(self, head, trace_id, parent_id, parent_id, state, sampled)
        trace_id = self.new_id(_TRACE_DIGITS)
        if sampled is None:
            sampled = trace_id[16:] < self._below
        return Trace(self, head, trace_id, self.new_id(_SPAN_DIGITS), "", "", sampled)

    def new_id(self, digits: int) -> str:
        """An id of as many hexadecimal digits, which nobody can foresee."""
        begin = self._used
        end = begin + digits
        if end > len(self._digits):
            self._digits = urandom(_STOCK).hex()
            begin, end = 0, digits
        self._used = end
        return self._digits[begin:end]


class Trace:
    """One request's part of a trace. ``span_id`` is that of the span for the request, which log lines name.

    ``recorded``: spans are made of it. A span that is not made must not be anyone's parent, so then the caller's own,
    where there is one, stays what the next hop sees and what log lines name. ``fields`` are the header fields that the
    newest try was sent with, ``try_id`` is the span that they name. ``host`` is whom the client asked for, whatever a
    route makes of that.
    """

    __slots__ = (
        "_offset", "_replaces", "_tracer", "fields", "host", "parent_id", "recorded", "sampled", "span_id", "state",
        "trace_id", "try_id",
    )  # fmt: skip

    def __init__(
        self,
        tracer: Tracer,
        head: RequestHead,
        trace_id: str,
        span_id: str,
        parent_id: str,
        state: str,
        sampled: bool,
    ) -> None:
        self._tracer = tracer
        self._replaces = head.traced
        self.host = head.host
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.state = state
        self.sampled = sampled
        self.recorded = sampled and tracer.spec.record
        self.span_id = self.try_id = span_id
        self.fields: Fields = _NO_FIELDS
        if self.recorded:
            if parent_id:
                self.span_id = tracer.new_id(_SPAN_DIGITS)
            # One offset for all its spans, so that no adjustment of the wall clock comes between them.
            self._offset = tracer.clock.wall() - tracer.clock.monotonic()

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id}/{self.span_id} {'recorded' if self.recorded else 'passed on'}>"

    def next_try(self) -> Fields:
        """The header fields that the next try is sent with: each is a span of its own, and the next hop's parent."""
        if self.recorded:
            self.try_id = self._tracer.new_id(_SPAN_DIGITS)
        self.fields = written(self._tracer.formats, self.trace_id, self.try_id, self.sampled, self.state)
        return self.fields

    def applied_to(self, fields: Fields) -> Fields:
        """A request's header fields, with those of the first try in the place of what the client sent."""
        return (without_trace_fields(fields) if self._replaces else fields) + self.next_try()

    def ids(self) -> dict[str, str]:
        """The fields of log lines."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}

    def request_span(self, name: str, start: float, end: float, error: bool, attributes: Attributes) -> None:
        """The request is over. Times are monotonic seconds."""
        self._add(self.span_id, self.parent_id, True, name, start, end, error, attributes)

    def try_span(self, name: str, start: float, end: float, error: bool, attributes: Attributes) -> None:
        """The newest try is over. Times are monotonic seconds."""
        self._add(self.try_id, self.span_id, False, name, start, end, error, attributes)

    def _add(
        self,
        span_id: str,
        parent_id: str,
        server: bool,
        name: str,
        start: float,
        end: float,
        error: bool,
        attributes: Attributes,
    ) -> None:
        began, ended = (int((self._offset + time) * 1e9) for time in (start, end))
        remote = server and bool(parent_id)
        state = self.state
        self._tracer.outbox.add(
            Span(self.trace_id, span_id, parent_id, remote, state, server, name, began, ended, error, attributes)
        )
