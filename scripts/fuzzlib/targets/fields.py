"""What single parts of an accepted head say: its target, its trace context, where it has come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from urllib.parse import unquote_to_bytes
from zlib import crc32

from charon.base.errors import BAD_REQUEST, METHOD_NOT_ALLOWED, BadMessage
from charon.wire import tracecontext
from charon.wire.faults import check_request_line
from charon.wire.forwarded import TrustedPeers, client_address, is_loop, request_extra
from charon.wire.limits import HeadLimits
from charon.wire.messages import RequestHead, parse_request, serialize_request
from scripts.fuzzlib import seeds
from scripts.fuzzlib.target import Target, add, expect

_WIDE = HeadLimits(max_header_bytes=1 << 20, max_headers=10_000, max_target_bytes=1 << 20)
_NOT_IN_VALUES = bytes(code for code in range(256) if code == 127 or (code < 32 and code != 9))
_TARGET_BYTES = b"!$%&'()*+,-./0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"
_NOT_IN_TARGETS = bytes(code for code in range(256) if code not in _TARGET_BYTES)
_HEX = frozenset("0123456789abcdef")

Fields = list[tuple[bytes, bytes]]


def _resolved(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None] | BadMessage:
    try:
        return check_request_line(method, target)
    except BadMessage as bad:
        expect(bad.reason in (BAD_REQUEST, METHOD_NOT_ALLOWED), "refused for another reason: {}", bad.reason)
        return bad


def check_target(data: bytes) -> Hashable:
    """A target has one spelling, which is its own, and means what it meant."""
    target = data.translate(None, _NOT_IN_TARGETS) or b"/"
    method = (b"GET", b"OPTIONS", b"CONNECT", b"POST")[crc32(data) & 3]
    found = _resolved(method, target)
    if isinstance(found, BadMessage):
        return found.detail
    path, onward, authority = found
    expect(method != b"CONNECT", "CONNECT")
    if path == b"*":
        expect(onward == b"*" and method == b"OPTIONS", "* for another method")
        return "*", authority is None
    expect(path.startswith(b"/") and onward.startswith(path), "no path")
    expect(onward == path or onward[len(path) :].startswith(b"?"), "something else behind the path")
    expect(onward.partition(b"?")[2] == target.partition(b"?")[2], "another query")
    expect(_resolved(method, onward) == (path, onward, None), "its one spelling has another")
    segments = path.split(b"/")
    expect(b"." not in segments and b".." not in segments and b"%00" not in path, "{!r}", path)
    original = target.partition(b"?")[0]
    if authority is not None:
        original = original.partition(b"://")[2][len(authority) :] or b"/"
    expect(_segments(path) == _segments(original), "{!r} was {!r}", path, original)
    return "path", b"%" in path, authority is None, onward is path


def _segments(path: bytes) -> list[bytes]:
    """The segments of a path with dots removed, each decoded: ``%2F`` stays apart from ``/``."""
    kept: list[bytes] = []
    parts = path[1:].split(b"/")
    for index, part in enumerate(parts):
        decoded = unquote_to_bytes(part)
        is_dots = decoded in (b".", b"..")
        if decoded == b".." and kept:
            kept.pop()
        if not is_dots:
            kept.append(decoded)
        elif index == len(parts) - 1:
            kept.append(b"")
    return kept


_TRACE_NAMES = (
    b"traceparent", b"tracestate", b"b3", b"X-B3-TraceId", b"X-B3-SpanId", b"X-B3-Sampled", b"X-B3-Flags",
    b"X-B3-ParentSpanId", b"uber-trace-id", b"X_B3_TraceId", b"TraceParent", b"accept", b"tracestate", b"traceparent",
)  # fmt: skip


def _trace_fields(data: bytes) -> Fields:
    """Lines of ``data`` as fields: the first byte chooses the name, the rest is the value as the grammar lets it be."""
    return [
        (_TRACE_NAMES[line[0] % len(_TRACE_NAMES)], line[1:].translate(None, _NOT_IN_VALUES).strip(b" \t"))
        for line in data.split(b"\n")
        if line
    ]


def check_trace(data: bytes) -> Hashable:
    """Nothing but well-formed identifiers comes out, and they come out again of what is written."""
    fields = _trace_fields(data)
    mine, others = tracecontext.trace_fields(fields), tracecontext.without_trace_fields(fields)
    expect(len(mine) + len(others) == len(fields), "a field is in both, or in none")
    expect(all(name == b"accept" for name, _ in others), "a field of trace context goes on as it came")
    context = tracecontext.extract(mine)
    if context is None:
        return min(len(mine), 3)
    trace_id, span_id, sampled, state = context
    expect(sampled in (None, True, False), "sampled")
    if not trace_id:
        expect(not span_id and sampled is not None, "a decision without one")
        return "decision", sampled
    expect(len(trace_id) == 32 and _HEX.issuperset(trace_id) and trace_id.strip("0"), "trace {!r}", trace_id)
    expect(len(span_id) == 16 and _HEX.issuperset(span_id) and span_id.strip("0"), "span {!r}", span_id)
    expect(len(state) <= 512 and state.isascii() and state.isprintable() and state.count(",") < 32, "state {!r}", state)
    decided = bool(sampled)
    for formats in (("w3c",), ("b3",), ("b3multi",), tracecontext.FORMATS):
        written = tracecontext.written(formats, trace_id, span_id, decided, state)
        expect(tracecontext.trace_fields(written) == written, "it writes something else")
        again = tracecontext.extract(written)
        kept = state if "w3c" in formats else ""
        expect(again == (trace_id, span_id, decided, kept), "{}: {} was {}", formats, again, context)
    return "context", sampled, bool(state), min(len(mine), 3)


_PEERS = (("10.0.0.1", True), ("192.0.2.1", False), ("2001:db8::1", False), ("", True), ("::1", True))
_TRUSTED = TrustedPeers(("10.0.0.0/8", "::1", "unix", "fd00::/8"))


def check_forwarded(data: bytes) -> Hashable:
    """What an untrusted peer says of where it comes from is gone; what goes on is one head, and says the truth."""
    try:
        found = parse_request(data, _WIDE)
        if found is None:
            lines = data.translate(None, b"\0\r").replace(b"\n", b"\r\n").strip(b"\r\n")
            found = parse_request(b"GET / HTTP/1.1\r\nHost: h.example\r\n" + lines + b"\r\n\r\n", _WIDE)
    except BadMessage as bad:
        return bad.reason.word
    if found is None:
        return "incomplete"
    head = found[0]
    peer, trusted = _PEERS[crc32(data) % len(_PEERS)]
    expect(_TRUSTED.trusts(peer) == trusted, "trusted or not")
    extra = request_extra(head, peer, b"https", trusted, b"me", b"By=x" if len(data) & 1 else b"")
    head.host = head.host or b"none.example"
    written = serialize_request(head, extra)
    again = parse_request(written + b"\0", _WIDE)
    assert again is not None
    expect(again[1] == len(written), "it breaks out of its line")
    expect(again[0].fields == head.fields and again[0].host == head.host, "it changes other fields")
    expect(is_loop(again[0], b"me") and not is_loop(again[0], b"m"), "its own name is not found again")
    said: dict[bytes, list[bytes]] = {}
    for name, value in again[0].forwarded or ():
        said.setdefault(name, []).append(value)
    for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via", b"forwarded"):
        expect(len(said.get(name, ())) < 2, "{!r} twice", name)
    expect(said[b"x-forwarded-proto"][0] in ((b"https", b"http") if trusted else (b"https",)), "scheme")
    chain = said.get(b"x-forwarded-for", [b""])[0]
    if not trusted:
        expect(said.keys() <= {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via",
                               b"x-forwarded-client-cert"}, "{}", said)  # fmt: skip
        expect(chain == peer.encode(), "{!r} from {}", chain, peer)
    expect(chain.endswith(peer.encode()), "{!r} does not end with {}", chain, peer)
    return "accepted", trusted, _client_is_one(head, peer, trusted), head.forwarded is None


def _client_is_one(head: RequestHead, peer: str, trusted: bool) -> bool:
    address = client_address(head, peer, _TRUSTED)
    if address != peer:
        expect(trusted and str(ipaddress.ip_address(address)) == address, "{!r} is no address", address)
    return address == peer


_ID, _SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
_TRACE_SEEDS = [
    b"\0" + b"00-" + _ID + b"-" + _SPAN + b"-01",
    b"\0" + b"cc-" + _ID + b"-" + _SPAN + b"-00-what",
    b"\0" + b"00-" + _ID + b"-" + _SPAN + b"-01\n\1rojo=00f067aa0ba902b7,congo=t61rcWkgMzE\n\1a@b=c , ,d=e",
    b"\0" + b"00-" + _ID + b"-" + _SPAN + b"-01\n\1" + b",".join(b"k%d=%b" % (n, b"v" * 20 * n) for n in range(9)),
    b"\2" + _ID + b"-" + _SPAN + b"-d-" + _SPAN,
    b"\2" + b"0",
    b"\3" + _ID + b"\n\4" + _SPAN + b"\n\5" + b"1\n\6" + b"1\n\7" + _SPAN,
    b"\5true",
    b"\x08" + _ID + b":" + _SPAN + b":0:1",
    b"\x08" + b"1%3A2%3a0%3A3",
    b"\x09" + _ID + b"\n\x0b" + b"*/*",
]
_TARGET_SEEDS = [
    b"/", b"*", b"/a/b?c=d", b"/a/../b/./c/", b"/%2e%2E/a%2fb", b"/%7euser/%E2%82%AC?%zz", b"//a//b", b"/..",
    b"/a/.", b"/.a/..b",
    b"http://h.example:80/a/../b?c", b"HTTPS://[::1]:8443", b"http://u@h/", b"http://h?q", b"http:///", b"/a%00",
    b"/a%g",
    b"/%2e%2e%2f%2e%2e", b"/a/%2e", b"http://h/%2e%2e", b"/a?b?c", b"/;a=b", b"/a/b/../../../c",
]  # fmt: skip
_FORWARDED_SEEDS = [
    b"X-Forwarded-For: 1.2.3.4, 10.0.0.2",
    b"X-Forwarded-For: [2001:db8::1]:80, unknown, _x, ::ffff:1.2.3.4, fe80::1%eth0, 1.2.3.4:5",
    b"X-Forwarded-Proto: https\nX-Forwarded-Host: shop.example\nX-Real-IP: 1.1.1.1",
    b'Forwarded: for="[::1]";proto=http, for=1.2.3.4\nVia: 1.0 a, 1.1 charon-me (x)',
    b"X-Forwarded-Client-Cert: By=a;URI=b\nX_Forwarded_For: 1.1.1.1\nX-Forwarded-Port: 80",
]
_HEX_WORDS = (
    b"\n", b"-", b",", b"=", b":", b"%3A", b"0", b"00", b"ff", b"01", b"d", b"1", b"\0", b"\1", b"\2", b"\3", b"\5",
    b"\x08",
    _ID, _SPAN, b"0" * 32, b"@", b" ", b"\t", b"a=b", b"\x80",
)  # fmt: skip
_TARGET_WORDS = (
    b"/", b"//", b"/.", b"/..", b"/../", b"/./", b"%2e", b"%2E", b"%2f", b"%00", b"%7E", b"%", b"%25", b"?", b"#",
    b"*", b"http://",
    b"https://", b"@", b":80", b":99999", b"[::1]", b"[", b";", b"%zz",
)  # fmt: skip
_FORWARDED_WORDS = (
    b"\n", b", ", b",", b"X-Forwarded-For: ", b"X-Forwarded-Proto: ", b"X-Forwarded-Host: ", b"Forwarded: ", b"Via: ",
    b"1.1 charon-me", b"10.0.0.9", b"192.0.2.7", b"::1", b"[::1]:80", b"fd00::1", b"::ffff:10.0.0.1", b"%eth0",
    b":65536",
    b"unknown", b"_hidden", b"http", b"https", b'"', b";", b"X-Forwarded-Client-Cert: ", b"\x80", b"X_Forwarded_For: ",
)  # fmt: skip


def _with_requests() -> list[bytes]:
    return _FORWARDED_SEEDS + [raw for raw in seeds.messages("requests") if b"orward" in raw or b"Via" in raw]


add(Target("targets", "request targets", check_target, lambda: list(_TARGET_SEEDS), _TARGET_WORDS))
add(Target("trace", "trace headers", check_trace, lambda: list(_TRACE_SEEDS), _HEX_WORDS))
add(Target("forwarded", "X-Forwarded, Forwarded, Via", check_forwarded, _with_requests, _FORWARDED_WORDS))
