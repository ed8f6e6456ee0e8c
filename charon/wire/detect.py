"""What a client speaks, told from the first bytes of its connection.

Only ever a classification: nothing is taken apart here that is not read again, strictly, by whoever gets the bytes.
Trust: the client decides what its bytes look like, so it can choose between the ways a listener offers, not more.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final


class Protocol(Enum):
    """What the bytes are, or what is still possible."""

    HTTP1 = "http/1"
    HTTP2 = "http/2"
    TLS = "tls"
    TCP = "tcp"
    UNDECIDED = "undecided"
    """More is needed. If no more comes in a short time, it is not HTTP: such clients send their first line whole."""
    HTTP1_BEGUN = "http/1 begun"
    """A request of HTTP/1 as far as it goes. A client that is slow to send it is a slow HTTP client."""


MAX_LINE: Final = 8192
"""Bytes after which a first line with no end to it is not waited for any more."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n"
"""The beginning of what every HTTP/2 client sends first (RFC 9113 section 3.4)."""

_METHODS: Final = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"TRACE ", b"CONNECT ")

PLAIN: Final = (b"GET /", b"POST /", b"HEAD /", b"PUT /", b"DELETE /", b"PATCH /", b"OPTIONS /", b"TRACE /")
"""How nearly all requests begin, the usual ones first: token SP '/', origin-form (RFC 9112 section 3.2.1). No other
protocol is known to begin so. ``startswith`` is all that it takes to see."""

# method SP request-target SP HTTP-version (RFC 9112 section 3), of a method as those in use are called: both patterns
# know the same ones, so that the verdict does not depend on the pieces in which the line arrives.
_METHOD: Final = rb"[A-Z][A-Z_-]{0,31}"
_REQUEST_LINE: Final = re.compile(_METHOD + rb" [!-~\x80-\xff]+ HTTP/[0-9]\.[0-9]\r?\n")
_MAYBE_METHOD: Final = re.compile(_METHOD + rb"(?: [^\n]*)?")

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 0x01


def detect(data: bytes) -> Protocol:
    """What ``data``, the beginning of a connection, is. Empty: ``UNDECIDED``."""
    if data.startswith(PLAIN):
        return Protocol.HTTP1
    if not data:
        return Protocol.UNDECIDED
    if data[0] == _HANDSHAKE:
        return _detect_tls(data)
    if data.startswith(_PREFACE):
        return Protocol.HTTP2
    if not 0x41 <= data[0] <= 0x5A:  # methods that are in use are in upper case
        return Protocol.TCP
    return _detect_line(data)


def _detect_tls(data: bytes) -> Protocol:
    """A record of type handshake, of SSL 3.0 to TLS 1.3 as records call it, that begins with a ClientHello."""
    if len(data) > 1 and data[1] != 3:
        return Protocol.TCP
    if len(data) > 2 and data[2] > 4:
        return Protocol.TCP
    if len(data) < 6:
        return Protocol.UNDECIDED
    length = int.from_bytes(data[3:5])
    return Protocol.TLS if 0 < length <= 16_384 and data[5] == _CLIENT_HELLO else Protocol.TCP


def _detect_line(data: bytes) -> Protocol:
    end = data.find(b"\n")
    if (len(data) if end < 0 else end) > MAX_LINE:
        return Protocol.TCP
    if end >= 0:
        return Protocol.HTTP1 if _REQUEST_LINE.match(data) else Protocol.TCP
    for method in _METHODS:
        if method.startswith(data[: len(method)]):
            return Protocol.HTTP1_BEGUN
    return Protocol.UNDECIDED if _MAYBE_METHOD.fullmatch(data) else Protocol.TCP
