"""Which fields mean something to a proxy, and which may not be taken away (RFC 9110 7.6.1).

``CODES`` classifies a folded name (:data:`FOLD`) in one dictionary lookup; a name that is not in it is an ordinary
end-to-end field, unless it begins with :data:`FORWARDED_PREFIX`.

Look-alikes: ``Content_Length`` is a good field name that means nothing in HTTP, but CGI, WSGI and their kin read ``_``
and ``-`` as the same, so behind such an upstream it would become a second Content-Length, and ``X_Forwarded_For`` a
forged X-Forwarded-For. A name that becomes a classified one when ``_`` is read as ``-`` is neither obeyed nor
forwarded. All other names with ``_`` pass.
"""

from __future__ import annotations

from typing import Final

HOST: Final = 1
CONTENT_LENGTH: Final = 2
TRANSFER_ENCODING: Final = 3
CONNECTION: Final = 4
UPGRADE: Final = 5
TE: Final = 6
EXPECT: Final = 7
FORWARDED: Final = 8
DROP: Final = 9
DATE: Final = 10
TRACE: Final = 11

# Lower case, and "_" as "-": one call for both.
FOLD: Final = bytes(range(256)).lower().replace(b"_", b"-")

FORWARDED_PREFIX: Final = b"x-forwarded-"

TRACE_NAMES: Final = frozenset(
    b"traceparent tracestate uber-trace-id "
    b"b3 x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled x-b3-flags".split()
)
"""The fields that carry trace context (charon.wire.tracecontext), in lower case."""

# What a request's fields are, by folded name.
# DROP: of this hop only, whether Connection names them or not (RFC 9110 7.6.1 names Proxy-Connection and Keep-Alive;
# HTTP2-Settings belongs to the h2c upgrade, RFC 7540 3.2.1). "Proxy" is no field at all, but becomes HTTP_PROXY in a
# CGI environment and would there redirect the application's own requests.
# TRACE: an end-to-end field like any other, unless there is tracing.
# Trailer (RFC 9110 6.6.2), Proxy-Authorization (11.7.2) and Max-Forwards are not on the list of 7.6.1 and pass.
REQUEST_CODES: Final[dict[bytes, int]] = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"te": TE,
    b"expect": EXPECT,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"http2-settings": DROP,
    b"proxy": DROP,
    b"forwarded": FORWARDED,
    b"via": FORWARDED,
    b"x-real-ip": FORWARDED,
    **dict.fromkeys(TRACE_NAMES, TRACE),
}

# The same for a response. Via and the X-Forwarded family have no power there and pass as ordinary fields.
RESPONSE_CODES: Final[dict[bytes, int]] = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"te": DROP,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"http2-settings": DROP,
    b"date": DATE,
}

# RFC 9110 7.6.1: "Connection" must not name a field that is meant for every recipient, yet a peer may try, to make a
# proxy take away a field that frames, routes, identifies or protects. These stay, whatever Connection says.
NEVER_NAMED: Final = TRACE_NAMES | frozenset(
    # Framing, routing, this proxy's own view of the client.
    b"host content-length transfer-encoding via forwarded x-real-ip x-request-id baggage "
    # Who is asking, and what it may do.
    b"authorization proxy-authorization www-authenticate proxy-authenticate authentication-info cookie set-cookie "
    b"origin referer location date "
    # What the content is.
    b"content-type content-encoding content-range content-language content-location content-disposition range trailer "
    # Conditions and caching.
    b"cache-control pragma expires age vary etag last-modified if-match if-none-match if-modified-since "
    b"if-unmodified-since if-range expect max-forwards retry-after "
    # What protects a browser's user.
    b"strict-transport-security content-security-policy x-frame-options x-content-type-options "
    b"access-control-allow-origin access-control-allow-credentials".split()
)

# RFC 9110 6.5.1: fields that are needed before the content, or that frame, route, authenticate, modify the request,
# control the response, or describe how to read the content, are not allowed in trailers. A recipient may merge
# trailers into the header section, so such a field is dropped, never passed on.
_NOT_IN_TRAILERS: Final = frozenset(
    b"accept accept-charset accept-encoding accept-language user-agent link refresh server allow "
    b"access-control-allow-methods access-control-allow-headers access-control-expose-headers "
    b"sec-websocket-key sec-websocket-accept sec-websocket-protocol sec-websocket-extensions sec-websocket-version "
    b"x-http-method-override x-method-override x-original-url x-rewrite-url".split()
)

# Options that name no field, but say something about the connection itself.
KEEP_ALIVE_BY_OPTION: Final[dict[bytes, bool]] = {
    b"keep-alive": True,
    b"Keep-Alive": True,
    b"close": False,
    b"Close": False,
}


def list_items(value: bytes) -> list[bytes]:
    """The elements of a comma-separated list in lower case, without empty ones (RFC 9110 5.6.1.2)."""
    return [item for part in value.lower().split(b",") if (item := part.strip(b" \t"))]


def is_protected(name: bytes) -> bool:
    """True when ``Connection`` may not make the field of this lower-case name disappear."""
    return name in NEVER_NAMED or name.startswith(FORWARDED_PREFIX)


def without_named(fields: list[tuple[bytes, bytes]], options: list[bytes]) -> list[tuple[bytes, bytes]]:
    """``fields`` without those that the connection options name, as far as they may be named."""
    named = {option for option in options if not is_protected(option)}
    return [field for field in fields if field[0].lower() not in named]


def allowed_trailer(name: bytes) -> bool:
    """True when a field of this name (any case) may be passed on after the content (RFC 9110 6.5.1)."""
    folded = name.translate(FOLD)
    return not (
        folded in REQUEST_CODES
        or folded in RESPONSE_CODES
        or (folded in NEVER_NAMED and folded != b"etag")  # RFC 9110 8.8.3 allows ETag there
        or folded in _NOT_IN_TRAILERS
        or folded.startswith(FORWARDED_PREFIX)
    )
