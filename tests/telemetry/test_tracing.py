"""Tracing in a worker: which trace, whether it is sampled, what is sent on, and how spans are handed over."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from charon.base.clock import FakeClock
from charon.config.snapshot import TracingSpec
from charon.telemetry import spans
from charon.telemetry.spans import Span, SpanOutbox, decode, encode
from charon.telemetry.tracing import Trace, Tracer
from charon.wire.limits import HeadLimits
from charon.wire.messages import RequestHead, parse_request

T = "0af7651916cd43dd8448eb211c80319c"
S = "b7ad6b7169203331"
SPAN = Span(T, S, "", False, "a=1", True, "GET", 1, 2, False, {"url.path": "/", "server.port": 80})


class Ends:
    """Both ends of what spans are handed over through."""

    def __init__(self) -> None:
        self.receiver, self.sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.setblocking(False)
        self.sender.setblocking(False)
        self.outbox = SpanOutbox(self.sender.fileno())

    def received(self) -> list[Span]:
        found = []
        while True:
            try:
                found += [decode(line) for line in self.receiver.recv(1 << 18).splitlines()]
            except BlockingIOError:
                return found


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    with ends.receiver, ends.sender:
        yield ends


def request(*lines: bytes) -> RequestHead:
    found = parse_request(b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines, b"", b""]), HeadLimits())
    assert found is not None
    return found[0]


def begin(
    ends: Ends, *lines: bytes, ratio: float = 1.0, record: bool = True, formats: tuple[str, ...] = ("w3c",)
) -> Trace:
    return Tracer(TracingSpec(ratio, formats, record), ends.outbox, FakeClock()).begin(request(*lines))


def test_a_request_without_context_begins_a_trace(ends: Ends) -> None:
    traces = [begin(ends) for _ in range(100)]
    assert len({trace.trace_id for trace in traces}) == len({trace.span_id for trace in traces}) == 100
    for trace in traces:
        assert (len(trace.trace_id), len(trace.span_id), trace.parent_id) == (32, 16, "")
        assert int(trace.trace_id, 16) and int(trace.span_id, 16)


@pytest.mark.parametrize("sampled", [True, False])
def test_the_callers_decision_counts_whatever_the_ratio_is(ends: Ends, sampled: bool) -> None:
    line = f"traceparent: 00-{T}-{S}-0{int(sampled)}".encode()
    trace = begin(ends, line, ratio=0.0 if sampled else 1.0)
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (T, S, sampled)
    assert begin(ends, f"b3: {int(sampled)}".encode(), ratio=0.0 if sampled else 1.0).sampled == sampled


@given(st.integers(1, (1 << 128) - 1), st.floats(0, 1))
def test_the_ratio_chooses_the_traces_that_opentelemetry_chooses(number: int, ratio: float) -> None:
    line = f"b3: {number:032x}-{S}".encode()  # which leaves the decision to us
    outbox = SpanOutbox(-1)
    tracer = Tracer(TracingSpec(ratio), outbox, FakeClock())
    theirs = TraceIdRatioBased(ratio).should_sample(None, number, "GET").decision
    assert tracer.begin(request(line)).sampled == (theirs is Decision.RECORD_AND_SAMPLE)


@pytest.mark.parametrize("line", [b"traceparent: x", b"X_B3_Flags: 1", b"Uber-Trace-Id: 1:2:3"])
def test_context_that_is_not_taken_does_not_go_on(ends: Ends, line: bytes) -> None:
    head = request(line, b"Accept: */*")
    trace = Tracer(TracingSpec(), ends.outbox, FakeClock()).begin(head)
    assert [name for name, _ in trace.applied_to(head.fields)] == [b"Accept", b"traceparent"]


def test_what_is_recorded_is_the_next_hops_parent_and_each_try_is_another(ends: Ends) -> None:
    trace = begin(ends, f"traceparent: 00-{T}-{S}-01".encode(), b"tracestate: a=1")
    sent = trace.applied_to([(b"Accept", b"*/*"), (b"traceparent", b"x"), (b"X_B3_Flags", b"x")])
    assert [name for name, _ in sent] == [b"Accept", b"traceparent", b"tracestate"]
    first, second = trace.try_id, trace.next_try()[0][1]
    assert sent[1][1] == f"00-{T}-{first}-01".encode()
    assert second == f"00-{T}-{trace.try_id}-01".encode()
    assert len({S, trace.span_id, first, trace.try_id}) == 4


@pytest.mark.parametrize(("flag", "record"), [("00", True), ("01", False)])
def test_without_a_span_of_ours_the_callers_stays_the_parent(ends: Ends, flag: str, record: bool) -> None:
    trace = begin(ends, f"traceparent: 00-{T}-{S}-{flag}".encode(), record=record)
    assert not trace.recorded
    assert trace.applied_to([]) == [(b"traceparent", f"00-{T}-{S}-{flag}".encode())]
    assert trace.ids() == {"trace_id": T, "span_id": S}


def test_an_unsampled_trace_that_begins_here_is_passed_on_too(ends: Ends) -> None:
    trace = begin(ends, ratio=0.0, formats=("w3c", "b3"))
    ids = f"{trace.trace_id}-{trace.span_id}"
    assert trace.applied_to([]) == [(b"traceparent", f"00-{ids}-00".encode()), (b"b3", f"{ids}-0".encode())]


def test_times_are_those_of_the_wall_clock(ends: Ends) -> None:
    trace = begin(ends)
    clock = FakeClock()
    trace.next_try()
    trace.try_span("GET", clock.monotonic() + 1, clock.monotonic() + 2, True, {})
    trace.request_span("GET /", clock.monotonic(), clock.monotonic() + 3, False, {"a": 1})
    ends.outbox.flush()
    attempt, request = ends.received()
    start = 1_700_000_000_000_000_000
    assert (request.start, request.end) == (start, start + 3_000_000_000)
    assert (attempt.start, attempt.end) == (start + 1_000_000_000, start + 2_000_000_000)
    assert (attempt.parent_id, attempt.trace_id) == (request.span_id, request.trace_id)
    assert (request.server, attempt.server, request.error, attempt.error) == (True, False, False, True)
    assert not request.remote and request.parent_id == ""


def test_spans_go_out_at_the_latest_with_the_next_flush(ends: Ends) -> None:
    ends.outbox.add(SPAN)
    assert ends.received() == []
    ends.outbox.flush()
    assert ends.received() == [SPAN]


def test_many_spans_go_out_by_themselves_in_datagrams_that_fit(ends: Ends) -> None:
    huge = SPAN._replace(
        attributes={"url.path": "\u00e9" * spans.MAX_TEXT, "user_agent.original": "\x7f" * spans.MAX_TEXT}
    )
    for _ in range(60):
        ends.outbox.add(huge)
    assert ends.received()[0] == huge
    ends.outbox.flush()
    assert ends.outbox.dropped == 0


def test_what_nobody_takes_waits_and_is_then_dropped_and_counted(ends: Ends) -> None:
    total = 0
    while not ends.outbox.dropped:  # the kernel's queue, then ours
        ends.outbox.add(SPAN)
        total += 1
    ends.outbox.add(SPAN)
    assert ends.outbox.dropped == 2
    taken: list[Span] = []
    while more := ends.received():
        taken += more
        ends.outbox.flush()
    assert len(taken) == total - 1 > spans.MAX_WAITING


def test_a_socket_that_is_no_more_costs_spans_and_nothing_else(ends: Ends) -> None:
    fd = os.dup(ends.sender.fileno())
    outbox = SpanOutbox(fd)
    os.close(fd)
    outbox.add(SPAN)
    outbox.flush()
    assert outbox.dropped == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"[1,2,3,4,5,6,7,8,9,10,11]",
        encode(SPAN._replace(trace_id="x")),
        encode(SPAN._replace(trace_id="0")),
        encode(SPAN._replace(span_id="1" * 17)),
        encode(SPAN._replace(parent_id="nonsense")),
        encode(SPAN._replace(start=-1)),
        encode(SPAN._replace(start=True)),
        encode(SPAN._replace(end=1 << 63)),
        encode(SPAN._replace(attributes={"a": 1 << 63})),
        encode(SPAN._replace(error=None)),  # type: ignore[arg-type]
        encode(SPAN._replace(name=1)),  # type: ignore[arg-type]
        encode(SPAN._replace(attributes={"a": [1]})),  # type: ignore[dict-item]
        encode(SPAN)[:-9],
    ],
)
def test_a_line_that_is_no_span_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)
