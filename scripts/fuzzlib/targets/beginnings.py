"""What a connection begins with: which protocol, the ClientHello of TLS, a PROXY header."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Hashable
from zlib import crc32

from charon.base.errors import BAD_CLIENT_HELLO, BAD_PROXY_HEADER, BadMessage
from charon.wire import proxy_protocol
from charon.wire.client_hello import ClientHello, parse_client_hello
from charon.wire.detect import MAX_LINE, Protocol, detect
from charon.wire.limits import HeadLimits
from charon.wire.messages import parse_request
from charon.wire.proxy_protocol import MAX_V1, MAX_V2, Header
from scripts.fuzzlib import seeds
from scripts.fuzzlib.target import Target, add, expect, places

_OPEN = (Protocol.UNDECIDED, Protocol.HTTP1_BEGUN)
_NAME_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%"
_METHOD = re.compile(rb"[A-Z][A-Z_-]{0,31} ")
_WIDE = HeadLimits(max_header_bytes=1 << 20, max_headers=1000)


def check_detect(data: bytes) -> Hashable:
    """A verdict stays, however the bytes arrive, and is that of the parser that would get them."""
    whole = detect(data)
    for place in (*places(data), min(1, len(data)), min(6, len(data))):
        part = detect(data[:place])
        expect(part in _OPEN or part is whole, "{} bytes are {}, all are {}", place, part, whole)
    expect(whole in _OPEN or detect(data + b"\r\n\0") is whole, "another verdict with more behind it")
    if _METHOD.match(data) and data.find(b"\n") <= MAX_LINE:
        try:
            is_request = parse_request(data, _WIDE) is not None
        except BadMessage:
            is_request = False
        expect(whole is Protocol.HTTP1 or not is_request, "a request is {}", whole)
    if data[:2] == b"\x16\x03" and data[2:3] <= b"\x04" and len(data) > 5:
        try:
            hello = parse_client_hello(data)
        except BadMessage:
            hello = None
        expect(whole is Protocol.TLS or hello is None, "a ClientHello is {}", whole)
    return whole


def _hello(data: bytes) -> ClientHello | str | None:
    try:
        return parse_client_hello(data)
    except BadMessage as bad:
        expect(bad.reason is BAD_CLIENT_HELLO, "refused for another reason: {}", bad.reason)
        return bad.detail


def check_hello(data: bytes) -> Hashable:
    """A name is found whole or not at all, in whatever pieces the bytes come."""
    whole = _hello(data)
    for place in places(data):
        part = _hello(data[:place])
        refused = isinstance(part, str) and isinstance(whole, str)  # which fault is found first may depend on it
        expect(part is None or refused or part == whole, "{} bytes come to {!r}, all to {!r}", place, part, whole)
    more = _hello(data + b"\x16\x03\x01\0\1\1") if whole is not None else None
    refused = isinstance(more, str) and isinstance(whole, str)
    expect(refused or more == whole, "with a record behind it comes to {!r}, not {!r}", more, whole)
    if not isinstance(whole, ClientHello):
        return whole
    expect(whole.is_tls == (data[0] == 22), "TLS or not")
    name = whole.server_name
    if name is not None:
        text = name.encode("ascii")
        expect(text and not text.translate(None, _NAME_BYTES) and len(text) < 256, "a name that is none: {!r}", name)
        expect(name in data.decode("latin-1").lower() or len(data) > 5 + int.from_bytes(data[3:5]), "a name of nowhere")
    return whole.is_tls, name is None


def _real_hellos() -> list[bytes]:
    """What OpenSSL sends, with names and without, of all versions."""
    found = seeds.beginnings("detect")
    for name in (None, "shop.example.com", "a"):
        for latest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.maximum_version = latest
            outgoing = ssl.MemoryBIO()
            try:
                context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
            except ssl.SSLWantReadError:
                found.append(outgoing.read())
    return found


def _read_header(data: bytes, step: Callable[[int], int]) -> tuple[Header | None, int] | str | None:
    """As a listener reads it: never more than is asked for, ``step`` of it at a time."""
    have = b""
    while True:
        try:
            answer = proxy_protocol.parse(have)
        except BadMessage as bad:
            expect(bad.reason is BAD_PROXY_HEADER, "refused for another reason: {}", bad.reason)
            return bad.detail
        if isinstance(answer, Header):
            return answer, len(have)
        expect(0 < answer <= MAX_V2, "asks for {} bytes", answer)
        taken = data[len(have) : len(have) + step(answer)]
        if not taken:
            return None
        have += taken


def check_proxy(data: bytes) -> Hashable:
    """The header ends where it ends in whatever pieces it is read, and says the same when it is written anew."""
    whole = _read_header(data, lambda wanted: wanted)
    number = crc32(data)
    bytewise = _read_header(data, lambda wanted: 1 + number % 3 % wanted)
    refused = isinstance(whole, str) and isinstance(bytewise, str)  # which fault is found first may depend on it
    expect(refused or bytewise == whole, "in pieces {}, whole {}", bytewise, whole)
    if not isinstance(whole, tuple):
        return whole
    header, used = whole
    assert header is not None
    is_v1 = data.startswith(b"PROXY")
    expect(used <= (MAX_V1 if is_v1 else MAX_V2), "{} bytes", used)
    expect(data[:used].find(b"\r\n") == used - 2 if is_v1 else used == 16 + int.from_bytes(data[14:16]), "its end")
    for version in (1, 2):
        written = proxy_protocol.header(version, header.peers)
        expect(
            _read_header(written + b"\0", lambda wanted: wanted) == (header, len(written)), "{!r} is another", written
        )
    return is_v1, header.peers is None


_TEXT = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n",
    b"\n",
    b" ",
    b"\0",
    b"HTTP/1.1",
)
_TLS = (
    b"\x16\x03\x01",
    b"\x16\x03\x03\x00\x01\x01",
    b"\x01\x00\x00",
    b"\x00\x00",
    b"\x00\x01",
    b"\x03\x03",
    b"\xff\xff",
)
_PROXY = (
    proxy_protocol.SIGNATURE, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"\r\n", b" ", b"1.2.3.4", b"::1",
    b"65535",
    b"0", b"\x21\x11\x00\x0c", b"\x21\x21\x00\x24", b"\x21\x31\x00\xd8", b"\x20\x00\x00\x00", b"\x04\x00\x01x", b"\xff",
)  # fmt: skip

add(Target("detect", "first bytes of a connection", check_detect, lambda: seeds.beginnings("detect"), _TEXT + _TLS))
add(Target("hello", "ClientHello of TLS", check_hello, _real_hellos, _TLS + (b"example.com", b"\r\n")))
add(Target("proxy", "PROXY headers, 1 and 2", check_proxy, lambda: seeds.beginnings("proxy"), _PROXY, largest=4096))
