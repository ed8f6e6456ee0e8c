"""Tracing in a worker: which trace a request belongs to, whether its spans are made, and what is sent on.

Whether a request is sampled is decided first, by its caller's word or by its trace id; a request that is not costs
reading and writing a header field and nothing else.
"""

from __future__ import annotations

from random import getrandbits
from typing import Final

from charon.base.clock import Clock
from charon.config.snapshot import TracingSpec
from charon.telemetry.spans import Attributes, Span, SpanOutbox
from charon.wire.tracecontext import Fields, extract, trace_fields, without_trace_fields, written

_ALL: Final = 1 << 64
# Odd ids are never zero, which would be no id.
_ODD_IDS: Final = (1 << 64) | 1


_NO_FIELDS: Final[Fields] = []


def new_id() -> str:
    """The id of another span."""
    return f"{getrandbits(64) | 1:016x}"


class Tracer:
    """What a snapshot says of tracing. Spans go to ``outbox``."""

    __slots__ = ("_below", "clock", "formats", "outbox", "spec")

    def __init__(self, spec: TracingSpec, outbox: SpanOutbox, clock: Clock) -> None:
        self.spec = spec
        self.formats = spec.propagation
        self.outbox = outbox
        self.clock = clock
        # As OpenTelemetry's ratio sampler has it, so that all who sample by trace id choose the same traces.
        bound = round(spec.sample_ratio * _ALL)
        self._below = f"{bound:016x}" if bound < _ALL else "g"  # what no digits come after

    def begin(self, fields: Fields, host: bytes) -> Trace:
        """The trace that a request to ``host`` with these header fields belongs to: its caller's, or a new one."""
        found = trace_fields(fields)
        sampled: bool | None = None
        if found:
            context = extract(found)
            if context is not None:
                trace_id, parent_id, sampled, state = context
                if trace_id:
                    if sampled is None:
                        sampled = trace_id[16:] < self._below
                    return Trace(self, host, trace_id, parent_id, parent_id, state, sampled, True)
        text = f"{getrandbits(192) | _ODD_IDS:048x}"
        if sampled is None:
            sampled = text[16:32] < self._below
        return Trace(self, host, text[:32], text[32:], "", "", sampled, bool(found))


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
        host: bytes,
        trace_id: str,
        span_id: str,
        parent_id: str,
        state: str,
        sampled: bool,
        replaces: bool,
    ) -> None:
        self._tracer = tracer
        self._replaces = replaces
        self.host = host
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.state = state
        self.sampled = sampled
        self.recorded = sampled and tracer.spec.record
        self.span_id = self.try_id = span_id
        self.fields: Fields = _NO_FIELDS
        if self.recorded:
            if parent_id:
                self.span_id = new_id()
            # One offset for all its spans, so that no adjustment of the wall clock comes between them.
            self._offset = tracer.clock.wall() - tracer.clock.monotonic()

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id}/{self.span_id} {'recorded' if self.recorded else 'passed on'}>"

    def next_try(self) -> Fields:
        """The header fields that the next try is sent with: each is a span of its own, and the next hop's parent."""
        if self.recorded:
            self.try_id = new_id()
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
