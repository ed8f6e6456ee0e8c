"""Trace context in header fields: what is taken, what counts as not sent, and what goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from charon.base.errors import BadMessage
from charon.wire.headers import TRACE_NAMES
from charon.wire.messages import HeadLimits, RequestHead, parse_request, serialize_request
from charon.wire.tracecontext import (
    FORMATS,
    Fields,
    TraceContext,
    extract,
    rewritten,
    trace_fields,
    without_trace_fields,
    written,
)

T = "0af7651916cd43dd8448eb211c80319c"
S = "b7ad6b7169203331"
SHORT = "8448eb211c80319c"
LONG = f"{SHORT:0>32}"
YES, NO, OPEN = TraceContext(T, S, True), TraceContext(T, S, False), TraceContext(T, S, None)

ACCEPTED: dict[str, tuple[list[str], TraceContext]] = {
    # W3C Trace Context
    "sampled": ([f"traceparent: 00-{T}-{S}-01"], YES),
    "not sampled": ([f"traceparent: 00-{T}-{S}-00"], NO),
    "flags that we do not know are not ours to read": ([f"traceparent: 00-{T}-{S}-fe"], NO),
    "the name's case does not matter": ([f"TraceParent: 00-{T}-{S}-01"], YES),
    "a later version": ([f"traceparent: cc-{T}-{S}-01"], YES),
    "a later version with more in it": ([f"traceparent: cc-{T}-{S}-01-what-ever"], YES),
    "with state": ([f"traceparent: 00-{T}-{S}-01", "tracestate: a=1,b@c=2"], TraceContext(T, S, True, "a=1,b@c=2")),
    "state in several fields, with blanks and empty members": (
        [f"traceparent: 00-{T}-{S}-01", "tracestate: a=1 ,\t, b=2", "tracestate: ,", "tracestate: c=3"],
        TraceContext(T, S, True, "a=1,b=2,c=3"),
    ),
    "a value may hold blanks": (
        [f"traceparent: 00-{T}-{S}-01", "tracestate: a= x z"],
        TraceContext(T, S, True, "a= x z"),
    ),
    "a value with =: no state": ([f"traceparent: 00-{T}-{S}-01", "tracestate: a=x=y"], YES),
    "32 members": (
        [f"traceparent: 00-{T}-{S}-01", "tracestate: " + ",".join(f"k{n}=1" for n in range(32))],
        TraceContext(T, S, True, ",".join(f"k{n}=1" for n in range(32))),
    ),
    "33 members: no state": (
        [f"traceparent: 00-{T}-{S}-01", "tracestate: " + ",".join(f"k{n}=1" for n in range(33))],
        YES,
    ),
    "a key that comes twice: no state": ([f"traceparent: 00-{T}-{S}-01", "tracestate: a=1,a=2"], YES),
    "an upper-case key: no state": ([f"traceparent: 00-{T}-{S}-01", "tracestate: A=1"], YES),
    "a member without a value: no state": ([f"traceparent: 00-{T}-{S}-01", "tracestate: a=1,b"], YES),
    "an octet above 0x7E: no state": ([f"traceparent: 00-{T}-{S}-01", "tracestate: a=\xe4"], YES),
    "a key too long: no state": ([f"traceparent: 00-{T}-{S}-01", f"tracestate: {'k' * 257}=1"], YES),
    "too long in all: long members go first": (
        [f"traceparent: 00-{T}-{S}-01", f"tracestate: a={'x' * 200},b={'y' * 120},c={'z' * 120},d={'x' * 200}"],
        TraceContext(T, S, True, f"b={'y' * 120},c={'z' * 120}"),
    ),
    "still too long: then the last": (
        [f"traceparent: 00-{T}-{S}-01", "tracestate: " + ",".join(f"{k}={'v' * 118}" for k in "abcdef")],
        TraceContext(T, S, True, ",".join(f"{k}={'v' * 118}" for k in "abcd")),
    ),
    # B3
    "b3": ([f"b3: {T}-{S}-1"], YES),
    "b3, not sampled": ([f"b3: {T}-{S}-0"], NO),
    "b3, debug": ([f"b3: {T}-{S}-d"], YES),
    "b3, undecided": ([f"b3: {T}-{S}"], OPEN),
    "b3 with its parent": ([f"b3: {T}-{S}-1-{SHORT}"], YES),
    "b3 with a short trace id": ([f"b3: {SHORT}-{S}-1"], TraceContext(LONG, S, True)),
    "b3, a decision only": (["b3: 0"], TraceContext("", "", False)),
    "b3, a decision only, debug": (["b3: d"], TraceContext("", "", True)),
    "X-B3": ([f"X-B3-TraceId: {T}", f"X-B3-SpanId: {S}", "X-B3-Sampled: 1", f"X-B3-ParentSpanId: {SHORT}"], YES),
    "X-B3, undecided": ([f"x-b3-traceid: {T}", f"x-b3-spanid: {S}"], OPEN),
    "X-B3, as it once was": ([f"X-B3-TraceId: {SHORT}", f"X-B3-SpanId: {S}", "X-B3-Sampled: false"],
                             TraceContext(LONG, S, False)),
    "X-B3, debug": ([f"X-B3-TraceId: {T}", f"X-B3-SpanId: {S}", "X-B3-Flags: 1"], YES),
    "X-B3, a decision only": (["X-B3-Sampled: 0"], TraceContext("", "", False)),
    # Jaeger
    "uber": ([f"uber-trace-id: {T}:{S}:0:1"], YES),
    "uber, not sampled": ([f"uber-trace-id: {T}:{S}:0:0"], NO),
    "uber, debug": ([f"uber-trace-id: {T}:{S}:{S}:3"], YES),
    "uber, shortened": (["uber-trace-id: a1:b2:0:1"], TraceContext(f"{'a1':0>32}", f"{'b2':0>16}", True)),
    "uber, percent-encoded": ([f"uber-trace-id: {T}%3A{S}%3a0%3A1"], YES),
    # Several
    "W3C goes before the others": ([f"b3: {SHORT}-{S}-0", f"traceparent: 00-{T}-{S}-01"], YES),
    "a malformed one makes way": (["traceparent: 00-0-0-01", f"b3: {T}-{S}-0"], NO),
}  # fmt: skip

REFUSED: dict[str, list[str]] = {
    "nothing": [],
    "state alone": ["tracestate: a=1"],
    "upper case": [f"traceparent: 00-{T.upper()}-{S}-01"],
    "no trace": [f"traceparent: 00-{'0' * 32}-{S}-01"],
    "no parent": [f"traceparent: 00-{T}-{'0' * 16}-01"],
    "version ff": [f"traceparent: ff-{T}-{S}-01"],
    "more than version 00 has": [f"traceparent: 00-{T}-{S}-01-x"],
    "more without a dash": [f"traceparent: cc-{T}-{S}-01x"],
    "one digit too few": [f"traceparent: 00-{T[1:]}-{S}-01"],
    "one digit too many": [f"traceparent: 00-{T}0-{S}-01"],
    "flags of one digit": [f"traceparent: 00-{T}-{S}-1"],
    "twice": [f"traceparent: 00-{T}-{S}-01", f"traceparent: 00-{T}-{S}-01"],
    "a list": [f"traceparent: 00-{T}-{S}-01, 00-{T}-{S}-01"],
    "a look-alike": [f"trace_parent: 00-{T}-{S}-01", f"X_B3_TraceId: {T}", f"X-B3_SpanId: {S}"],
    "b3 in upper case": [f"b3: {T.upper()}-{S}-1"],
    "b3 with a trace id of 24 digits": [f"b3: {T[:24]}-{S}-1"],
    "b3 without a trace": [f"b3: {'0' * 16}-{S}-1"],
    "b3 with an unknown decision": [f"b3: {T}-{S}-2"],
    "b3 with more": [f"b3: {T}-{S}-1-{S}-1"],
    "b3 twice": ["b3: 0", "b3: 0"],
    "X-B3 without a span": [f"X-B3-TraceId: {T}", "X-B3-Sampled: 1"],
    "X-B3 without a trace": [f"X-B3-SpanId: {S}"],
    "X-B3 with an unknown decision": [f"X-B3-TraceId: {T}", f"X-B3-SpanId: {S}", "X-B3-Sampled: yes"],
    "X-B3 with a span of zeros": [f"X-B3-TraceId: {T}", f"X-B3-SpanId: {'0' * 16}"],
    "uber without flags": [f"uber-trace-id: {T}:{S}:0"],
    "uber without a trace": [f"uber-trace-id: 0:{S}:0:1"],
    "uber with too many digits": [f"uber-trace-id: {T}1:{S}:0:1"],
}


def fields(lines: list[str]) -> Fields:
    pairs = (line.partition(": ") for line in lines)
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, _, value in pairs]


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_well_formed_is_taken(name: str) -> None:
    lines, context = ACCEPTED[name]
    assert extract(trace_fields(fields(["Host: a", *lines, "Accept: */*"]))) == context


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_counts_as_not_sent(name: str) -> None:
    assert extract(trace_fields(fields(REFUSED[name]))) is None


def test_all_fields_of_the_kind_are_taken_away() -> None:
    kept = fields(["Accept: */*", "baggage: a=1", "X-Request-Id: 1", "b3x: 1", "Trace-State: 1"])
    gone = fields([*(f"{name.decode()}: x" for name in sorted(TRACE_NAMES)), "X_B3_Flags: 1", "UBER_trace-ID: 1"])
    mixed = [field for pair in zip(gone, kept * 3, strict=False) for field in pair]
    assert without_trace_fields(mixed) == [field for field in mixed if field in kept]
    assert trace_fields(mixed) == [field for field in mixed if field in gone]


def test_each_format_as_it_is_written() -> None:
    assert written(("w3c",), T, S, True, "") == fields([f"traceparent: 00-{T}-{S}-01"])
    assert written(("w3c",), T, S, False, "a=1") == fields([f"traceparent: 00-{T}-{S}-00", "tracestate: a=1"])
    assert written(("b3",), T, S, True, "a=1") == fields([f"b3: {T}-{S}-1"])
    both = fields([f"X-B3-TraceId: {T}", f"X-B3-SpanId: {S}", "X-B3-Sampled: 0", f"b3: {T}-{S}-0"])
    assert written(("b3multi", "b3"), T, S, False, "") == both


@st.composite
def contexts(draw: st.DrawFn) -> TraceContext:
    trace = draw(st.integers(1, (1 << 128) - 1))
    span = draw(st.integers(1, (1 << 64) - 1))
    keys = draw(st.lists(st.from_regex(r"\A[a-z][a-z0-9_*/-]{0,8}\Z"), max_size=8, unique=True))
    value = st.from_regex(r"\A[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,8}[\x21-\x2b\x2d-\x3c\x3e-\x7e]\Z")
    state = ",".join(f"{key}={draw(value)}" for key in keys)
    return TraceContext(f"{trace:032x}", f"{span:016x}", draw(st.booleans()), state)


@given(contexts(), st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3, unique=True))
def test_what_is_written_is_read_by_ourselves_and_by_others(context: TraceContext, formats: list[str]) -> None:
    assert context.sampled is not None
    sent = written(tuple(formats), context.trace_id, context.span_id, context.sampled, context.state)
    w3c = "w3c" in formats
    state = context.state if w3c else ""
    assert extract(sent) == TraceContext(context.trace_id, context.span_id, context.sampled, state)
    if w3c:
        carrier = {name.decode(): value.decode() for name, value in sent}
        seen = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
        assert (f"{seen.trace_id:032x}", f"{seen.span_id:016x}") == (context.trace_id, context.span_id)
        assert seen.trace_flags.sampled == context.sampled and seen.is_remote


NAME = st.sampled_from(sorted(TRACE_NAMES)) | st.binary(min_size=1, max_size=20)
VALUE = st.binary(max_size=120) | st.from_regex(rb"\A[0-9a-fd:=,-]{1,60}\Z")


@given(st.lists(st.tuples(NAME, VALUE), max_size=6))
def test_no_bytes_of_a_client_come_out_but_well_formed(sent: Fields) -> None:
    context = extract(trace_fields(sent))
    if context is None:
        return
    again = written(FORMATS, context.trace_id or T, context.span_id or S, bool(context.sampled), context.state)
    for name, value in again:
        assert name.lower() in TRACE_NAMES
        assert b"\r" not in value and b"\n" not in value and value.isascii() and value == value.strip()
    assert extract(again) is not None


LIMITS = HeadLimits(max_header_bytes=65_536, max_headers=128)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_a_further_try_changes_its_own_fields_and_nothing_else(value: bytes, body: bytes) -> None:
    """Whatever a client writes into other fields and the body, even a guess at the line itself."""
    before = written(FORMATS, T, S, True, "a=1")
    after = written(FORMATS, T, SHORT, True, "a=1")
    line = b"%b: %b" % before[0]
    bait = b"GET / HTTP/1.1\r\nHost: a\r\nx-bait: " + value + line + b"\r\ny: " + line + b"\r\n\r\n"
    try:
        parsed = parse_request(bait, LIMITS)
    except BadMessage:
        return
    assert parsed is not None
    head = parsed[0]
    others = without_trace_fields(head.fields)

    def with_fields(sent: Fields) -> bytes:
        again = RequestHead(head.method, head.target, head.path, 11, head.host, others + sent)
        return serialize_request(again, b"Via: x\r\n") + b"\r\n" + line + b"\r\n" + body

    assert rewritten(with_fields(before), before, after) == with_fields(after)
