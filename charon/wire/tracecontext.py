"""Trace context in header fields: what a caller says of the trace its request belongs to, and what goes on.

Read are W3C Trace Context level 1, B3 (https://github.com/openzipkin/b3-propagation) in one field or in several, and
Jaeger's ``uber-trace-id``; W3C and B3 are written. Anyone can write these fields, and no answer depends on them: a
caller that is not trusted can choose the trace its requests are shown in, and whether they are, and nothing else. So
every caller's context is taken, whoever it is, as other proxies do. What is not exactly well formed counts as not
sent. Nothing of it goes on as it came: all these fields are taken away and written anew, from values that have passed
the patterns below, none of which lets a CR, an LF or a second field through.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from charon.wire.headers import FOLD, TRACE_NAMES

Fields = list[tuple[bytes, bytes]]

FORMATS: Final = ("w3c", "b3", "b3multi")
"""Words for what can be written. ``b3`` is the one field, ``b3multi`` are the several."""

_W3C_ALONE: Final = ("w3c",)

# Section 3.2: version, trace-id, parent-id, trace-flags. ff is no version, and zeros are no id. Version 00 ends here; a
# later one may add more behind another dash.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)

# Section 3.3: members are separated by commas with optional white space, and may be empty; a value ends with no blank.
_MEMBER: Final = re.compile(
    rb"((?:[a-z][a-z0-9_\-*/]{0,255})|(?:[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}))"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MAX_MEMBERS: Final = 32
_MAX_STATE: Final = 512  # section 3.3.1.5: what must be passed on at least; this is also as much as is
_LONG_MEMBER: Final = 128

_B3: Final = re.compile(rb"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?")
_B3_TRACE: Final = re.compile(rb"[0-9a-f]{16}|[0-9a-f]{32}")
_B3_SPAN: Final = re.compile(rb"[0-9a-f]{16}")
_B3_SAMPLED: Final = {b"1": True, b"d": True, b"0": False}
_B3_SAMPLED_FIELD: Final = {b"1": True, b"0": False, b"true": True, b"false": False}

# Ids are written without leading zeros; the whole may be percent-encoded.
_HEX: Final = rb"[0-9A-Fa-f]"
_UBER: Final = re.compile(
    b"(?::|%%3[Aa])".join((b"(%b{1,32})", b"(%b{1,16})", b"%b{1,16}", b"(%b{1,2})")) % (_HEX, _HEX, _HEX, _HEX)
)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16

_Values = dict[bytes, list[bytes]]
_NOTHING: Final[list[bytes]] = []


class TraceContext(NamedTuple):
    """What a caller said. ``trace_id`` has 32 and ``span_id`` 16 digits in lower case, neither of them all zeros; both
    are empty where it gave only a decision. ``sampled`` is None where it left the decision to us. ``state`` is
    ``tracestate``, well formed, or empty."""

    trace_id: str
    span_id: str
    sampled: bool | None
    state: str = ""


def trace_fields(fields: Fields) -> Fields:
    """Those of ``fields`` that carry trace context, look-alikes (``X_B3_TraceId``) among them."""
    return [field for field in fields if field[0].translate(FOLD) in TRACE_NAMES]


def without_trace_fields(fields: Fields) -> Fields:
    """``fields`` without those."""
    return [field for field in fields if field[0].translate(FOLD) not in TRACE_NAMES]


def extract(found: Fields) -> TraceContext | None:
    """The context in ``found``, as :func:`trace_fields` gives it; None when there is none that is well formed.

    Where there are several, the first of W3C, B3 in one field, B3 in several, and Jaeger counts.
    """
    if len(found) == 1 and found[0][0] == b"traceparent":  # nearly always
        return _traceparent(found[0][1], _NOTHING)
    values: _Values = {}
    for name, value in found:
        if b"_" not in name:  # a look-alike is neither obeyed nor sent on, see charon.wire.headers
            values.setdefault(name.lower(), []).append(value)
    return _w3c(values) or _b3(values) or _b3_multi(values) or _uber(values)


def written(formats: tuple[str, ...], trace_id: str, span_id: str, sampled: bool, state: str) -> Fields:
    """The fields for the next hop, in ``formats`` (words of :data:`FORMATS`). ``span_id`` is its parent's."""
    flag = "1" if sampled else "0"
    if formats == _W3C_ALONE and not state:  # nearly always
        return [(b"traceparent", f"00-{trace_id}-{span_id}-0{flag}".encode("ascii"))]
    fields: Fields = []
    for word in formats:
        if word == "w3c":
            # Bits other than "sampled" must be zero (section 3.2.2.5.2).
            fields.append((b"traceparent", f"00-{trace_id}-{span_id}-0{flag}".encode("ascii")))
            if state:
                fields.append((b"tracestate", state.encode("ascii")))
        elif word == "b3":
            fields.append((b"b3", f"{trace_id}-{span_id}-{flag}".encode("ascii")))
        else:
            fields.append((b"X-B3-TraceId", trace_id.encode("ascii")))
            fields.append((b"X-B3-SpanId", span_id.encode("ascii")))
            fields.append((b"X-B3-Sampled", flag.encode("ascii")))
    return fields


def rewritten(request: bytes, before: Fields, after: Fields) -> bytes:
    """``request``, a head and perhaps some body, with the fields ``after`` in the place of ``before``, each of them.

    No other line can be taken for one of ``before``: fields of these names are taken away from what clients send, no
    value has a line break in it, and the head stands before the body. A field that a route has edited stays as it is.
    """
    for old, new in zip(before, after, strict=True):
        if old != new:
            request = request.replace(b"\r\n%b: %b\r\n" % old, b"\r\n%b: %b\r\n" % new, 1)
    return request


def _only(values: _Values, name: bytes) -> bytes:
    """The one value of a field, empty when there are none or several: which of them counts would be a guess."""
    found = values.get(name)
    return found[0] if found is not None and len(found) == 1 else b""


def _ids(trace: bytes, span: bytes) -> tuple[str, str] | None:
    """Both ids in full length; None when one is all zeros, which says that there is none."""
    trace_id = trace.decode("ascii").lower().rjust(32, "0")
    span_id = span.decode("ascii").lower().rjust(16, "0")
    return None if trace_id == _NO_TRACE or span_id == _NO_SPAN else (trace_id, span_id)


def _w3c(values: _Values) -> TraceContext | None:
    return _traceparent(_only(values, b"traceparent"), values.get(b"tracestate", _NOTHING))


def _traceparent(value: bytes, state: list[bytes]) -> TraceContext | None:
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if more is not None and version == b"00":
        return None
    sampled = int(flags, 16) & 1 == 1
    return TraceContext(trace.decode("ascii"), span.decode("ascii"), sampled, _state(state) if state else "")


def _state(lines: list[bytes]) -> str:
    """The members of all ``lines``, in order; nothing when one is malformed, comes twice, or there are too many."""
    members = [member for line in lines for part in line.split(b",") if (member := part.strip(b" \t"))]
    if not members or len(members) > _MAX_MEMBERS:
        return ""
    keys = set()
    for member in members:
        match = _MEMBER.fullmatch(member)
        if match is None or match[1] in keys:
            return ""
        keys.add(match[1])
    if _length(members) > _MAX_STATE:
        # Section 3.3.1.5: long members go first, then those at the end; never a part of one.
        members = [member for member in members if len(member) <= _LONG_MEMBER]
        while _length(members) > _MAX_STATE:
            members.pop()
    return b",".join(members).decode("ascii")


def _length(members: list[bytes]) -> int:
    return sum(map(len, members)) + len(members) - 1


def _b3(values: _Values) -> TraceContext | None:
    value = _only(values, b"b3")
    if value in _B3_SAMPLED:
        return TraceContext("", "", _B3_SAMPLED[value])
    match = _B3.fullmatch(value)
    if match is None:
        return None
    ids = _ids(match[1], match[2])
    return None if ids is None else TraceContext(*ids, _B3_SAMPLED.get(match[3]))


def _b3_multi(values: _Values) -> TraceContext | None:
    decision = _only(values, b"x-b3-sampled")
    sampled = _B3_SAMPLED_FIELD.get(decision)
    if sampled is None and b"x-b3-sampled" in values:
        return None
    if _only(values, b"x-b3-flags") == b"1":
        sampled = True  # "debug": the decision is not to be left to chance
    trace, span = _only(values, b"x-b3-traceid"), _only(values, b"x-b3-spanid")
    if b"x-b3-traceid" not in values and b"x-b3-spanid" not in values:
        return None if sampled is None else TraceContext("", "", sampled)
    if _B3_TRACE.fullmatch(trace) is None or _B3_SPAN.fullmatch(span) is None:
        return None
    ids = _ids(trace, span)
    return None if ids is None else TraceContext(*ids, sampled)


def _uber(values: _Values) -> TraceContext | None:
    match = _UBER.fullmatch(_only(values, b"uber-trace-id"))
    if match is None:
        return None
    ids = _ids(match[1], match[2])
    # Bit 0 is "sampled", bit 1 "debug", which asks for the same.
    return None if ids is None else TraceContext(*ids, bool(int(match[3], 16) & 3))
