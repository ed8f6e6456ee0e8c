"""Heads of requests and responses: bytes to values and back (RFC 9112 2 to 6, RFC 9110 7.6.1).

The peer is not trusted here: what these functions return is the only thing of a peer's head that goes on. A head is
matched by one pattern as a whole and its fields are classified in one loop; only heads that do not match are looked
at again (charon.wire.faults), to say what is wrong or that bytes are missing.
"""

from __future__ import annotations

from typing import Final

from charon.base.errors import (
    BAD_HOST,
    BAD_REQUEST,
    EXPECTATION_FAILED,
    HEADERS_TOO_LARGE,
    UPSTREAM_MALFORMED,
    BadMessage,
)
from charon.wire import faults, framing, grammar, headers
from charon.wire.framing import CHUNKED, UNTIL_CLOSE
from charon.wire.limits import HeadLimits
from charon.wire.target import is_host

__all__ = [
    "CHUNKED",
    "UNTIL_CLOSE",
    "HeadLimits",
    "RequestHead",
    "ResponseHead",
    "connection_lines",
    "parse_request",
    "parse_response",
    "serialize_request",
    "serialize_response",
]

Fields = list[tuple[bytes, bytes]]

_match_request = grammar.REQUEST_HEAD.match
_match_response = grammar.RESPONSE_HEAD.match
_split_fields = grammar.SPLIT_FIELDS.findall
_request_code = headers.REQUEST_CODES.get
_response_code = headers.RESPONSE_CODES.get
_plain_option = headers.KEEP_ALIVE_BY_OPTION.get
_FOLD: Final = headers.FOLD
_HOST: Final = headers.HOST
_CONNECTION: Final = headers.CONNECTION
_TRACE: Final = headers.TRACE
_X: Final = ord("x")
_HTAB: Final = ord("\t")
_SLASH: Final = ord("/")
_PERCENT: Final = ord("%")
_QUESTION_MARK: Final = ord("?")

_NOTHING: Final[list[bytes]] = []

# RFC 9110 8.6: methods whose requests anticipate content say so even when there is none.
_METHODS_WITH_CONTENT: Final = frozenset((b"POST", b"PUT", b"PATCH"))

# Protocols that would carry further HTTP requests past routing, limits and identity checks once the connection is a
# tunnel (h2c, HTTP/2.0), or hide everything from them (TLS/1.0, RFC 2817). Never passed on.
_TUNNELS_OF_REQUESTS: Final = (b"h2", b"http", b"tls")


class RequestHead:
    """A client's request as it may go on.

    ``target`` is ``path?query`` in its one spelling, or ``*``; ``path`` is the same without the query. ``version`` is
    10 or 11. ``host`` is what to forward as Host: the authority of an absolute target, else the Host field, ``b""``
    only for HTTP/1.0 without either. ``fields`` are end to end, in order, names as sent. ``forwarded`` holds what the
    client sent of the Forwarded family and Via, names in lower case; None when nothing. ``body`` is a number of bytes
    or CHUNKED. ``upgrade`` is the protocol list to pass on, if the client asked for one. ``traced``: some of ``fields``
    carry trace context.
    """

    __slots__ = (
        "body", "expect_continue", "fields", "forwarded", "host", "keep_alive", "method", "path", "target",
        "te_trailers", "traced", "upgrade", "version",
    )  # fmt: skip

    def __init__(
        self,
        method: bytes,
        target: bytes,
        path: bytes,
        version: int,
        host: bytes,
        fields: Fields,
        forwarded: Fields | None = None,
        body: int = 0,
        keep_alive: bool = True,
        expect_continue: bool = False,
        upgrade: bytes | None = None,
        te_trailers: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.version = version
        self.host = host
        self.fields = fields
        self.forwarded = forwarded
        self.body = body
        self.keep_alive = keep_alive
        self.expect_continue = expect_continue
        self.upgrade = upgrade
        self.te_trailers = te_trailers
        self.traced = False

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.target!r} host={self.host!r} body={self.body}>"


class ResponseHead:
    """An upstream's answer as it may go on.

    ``body`` is a number of bytes, CHUNKED or UNTIL_CLOSE; ``declared_length`` the Content-Length as sent (to repeat in
    answers to HEAD and in 304). ``keep_alive``: the upstream connection may be used again after the body. ``upgrade``
    is the protocol of a 101; whether one was asked for is the caller's to check. ``has_date``: RFC 9110 6.6.1 wants a
    Date in what is passed on.
    """

    __slots__ = (
        "body", "declared_length", "fields", "has_date", "keep_alive", "reason", "status", "upgrade", "version",
    )  # fmt: skip

    def __init__(
        self,
        version: int,
        status: int,
        reason: bytes,
        fields: Fields,
        body: int = 0,
        declared_length: int | None = None,
        keep_alive: bool = True,
        upgrade: bytes | None = None,
        has_date: bool = False,
    ) -> None:
        self.version = version
        self.status = status
        self.reason = reason
        self.fields = fields
        self.body = body
        self.declared_length = declared_length
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.has_date = has_date

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} body={self.body} keep_alive={self.keep_alive}>"


def _take_fields(block: bytes) -> Fields:
    """Names and trimmed values of a block of field lines that the grammar has accepted."""
    pairs: Fields = _split_fields(block)
    if b" \r\n" in block or (_HTAB in block and b"\t\r\n" in block):
        return [(name, value.rstrip(b" \t")) for name, value in pairs]
    return pairs


def _upgrade_value(value: bytes) -> bytes | None:
    """The protocols of an Upgrade value that may be passed on, or None."""
    protocols = [item for part in value.split(b",") if (item := part.strip(b" \t"))]
    kept = [item for item in protocols if not item.lower().startswith(_TUNNELS_OF_REQUESTS)]
    if not kept or any(grammar.PROTOCOL.fullmatch(item) is None for item in kept):
        return None
    return b", ".join(kept)


def _apply_connection(head: RequestHead, connection: bytes, upgrade: bytes, te: bytes) -> None:
    """Obey ``Connection``, as far as it may be obeyed."""
    plain = _plain_option(connection)
    if plain is not None:
        head.keep_alive = plain
        return
    options = headers.list_items(connection)
    head.keep_alive = b"close" not in options and (head.version == 11 or b"keep-alive" in options)
    head.fields = headers.without_named(head.fields, options)
    # RFC 9110 7.8: an Upgrade received in HTTP/1.0 must be ignored, and so must one that Connection does not name.
    if upgrade and head.version == 11 and b"upgrade" in options:
        head.upgrade = _upgrade_value(upgrade)
    if te and b"te" in options:
        head.te_trailers = b"trailers" in headers.list_items(te)


def _expect(head: RequestHead, value: bytes) -> None:
    """RFC 9110 10.1.1: ignored in HTTP/1.0; an expectation other than 100-continue is refused with 417."""
    if head.version == 10:
        return
    if value.lower() != b"100-continue":
        raise BadMessage(EXPECTATION_FAILED, "an expectation other than 100-continue")
    head.expect_continue = True


def _other_fields(head: RequestHead, others: list[tuple[int, bytes, bytes]], connection: bytes | None) -> None:
    """Obey the fields that mean something to a proxy, but for Host."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    forwarded: Fields = []
    upgrade = te = b""
    for code, name, value in others:
        if code == headers.CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif code == headers.CONTENT_LENGTH:
            lengths.append(value)
        elif code == headers.TRANSFER_ENCODING:
            codings.append(value)
        elif code == headers.FORWARDED:
            forwarded.append((name.lower(), value))
        elif code == headers.EXPECT:
            _expect(head, value)
        elif code == headers.UPGRADE:
            upgrade += b"," + value
        elif code == headers.TE:
            te += b"," + value
    if forwarded:
        head.forwarded = forwarded
    if lengths or codings:
        head.body = framing.request_body(lengths, codings, head.version)
    if connection is not None:
        _apply_connection(head, connection, upgrade, te)


def parse_request(buffer: bytes, limits: HeadLimits) -> tuple[RequestHead, int] | None:  # noqa: C901 - one hot loop
    """The request head at the beginning of ``buffer`` and the bytes it takes; None when bytes are missing.

    Raises :class:`BadMessage` as soon as something is wrong: BAD_REQUEST, BAD_HOST, BAD_FRAMING, UNKNOWN_CODING,
    BAD_VERSION, METHOD_NOT_ALLOWED, URI_TOO_LONG, HEADERS_TOO_LARGE, EXPECTATION_FAILED. The verdict does not depend
    on the pieces in which the bytes arrive, nor on what follows the head.

    An unfinished head is read from its beginning each time. A reader may wait with the next call until an LF arrives or
    the limit is passed, as no head ends without one; so a peer that sends single bytes costs little.
    """
    match = _match_request(buffer)
    if match is None:
        fault = faults.request_fault(buffer, limits)
        if fault is not None:
            raise fault
        if b"\r\n\r\n" in buffer[2:]:  # unreachable unless grammar and faults disagree: then refuse
            raise BadMessage(BAD_REQUEST, "the head is malformed")
        return None
    method, target, minor, block = match.groups()
    end = match.end()
    if end > limits.max_header_bytes or len(target) > limits.max_target_bytes or len(method) > faults.MAX_METHOD_BYTES:
        fault = faults.request_fault(buffer[:end], limits)
        if fault is not None:
            raise fault
    authority = None
    if target[0] == _SLASH and method != b"CONNECT" and _PERCENT not in target and b"/." not in target:
        path = target[: target.index(b"?")] if _QUESTION_MARK in target else target
    else:
        path, target, authority = faults.check_request_line(method, target)

    pairs = _take_fields(block)
    if len(pairs) > limits.max_headers:
        raise BadMessage(HEADERS_TOO_LARGE, "too many header fields")
    fields: Fields = []
    others: list[tuple[int, bytes, bytes]] = []
    host = connection = None
    traced = False
    for field in pairs:
        name = field[0]
        folded = name.translate(_FOLD)
        code = _request_code(folded)
        if code is None:
            if folded[0] != _X or not folded.startswith(b"x-forwarded-"):
                fields.append(field)
                continue
            code = headers.FORWARDED
        if code == _TRACE:
            fields.append(field)
            traced = True
            continue
        if b"_" in name:
            continue
        if code == _HOST:
            if host is not None:
                raise BadMessage(BAD_HOST, "more than one Host")
            host = field[1]
        elif code == _CONNECTION and connection is None:
            connection = field[1]
        else:
            others.append((code, name, field[1]))

    if host is None:
        if minor == b"1":
            raise BadMessage(BAD_HOST, "no Host")
        host = b""
    elif not is_host(host):
        raise BadMessage(BAD_HOST, "Host is not a host with an optional port")
    version = 11 if minor == b"1" else 10
    head = RequestHead(
        method, target, path, version, host if authority is None else authority, fields, None, 0, version == 11
    )
    head.traced = traced
    if others:
        _other_fields(head, others, connection)
    elif connection is not None:
        _apply_connection(head, connection, b"", b"")
    return head, end


def parse_response(buffer: bytes, request_method: bytes, limits: HeadLimits) -> tuple[ResponseHead, int] | None:
    """The response head at the beginning of ``buffer`` and the bytes it takes; None when bytes are missing.

    Interim answers (1xx) are heads of their own. Raises :class:`BadMessage` (UPSTREAM_MALFORMED) as soon as something
    is wrong.
    """
    match = _match_response(buffer)
    if match is None or match.end() > limits.max_header_bytes:
        fault = faults.response_fault(buffer, limits)
        if fault is not None:
            raise fault
        if match is not None or b"\r\n\r\n" in buffer:  # unreachable unless grammar and faults disagree: then refuse
            raise BadMessage(UPSTREAM_MALFORMED, "the head is malformed")
        return None
    minor, digits, reason, block = match.groups()
    pairs = _take_fields(block)
    if len(pairs) > limits.max_headers:
        raise BadMessage(UPSTREAM_MALFORMED, "too many header fields")
    version = 11 if minor == b"1" else 10
    status = int(digits)
    fields: Fields = []
    special: dict[int, list[bytes]] = {}
    has_date = False
    for field in pairs:
        name, value = field
        code = _response_code(name.translate(_FOLD))
        if code is None:
            fields.append(field)
        elif code == headers.DATE:
            has_date = True
            fields.append(field)
        elif b"_" not in name:
            special.setdefault(code, []).append(value)

    body, declared = framing.response_body(
        special.get(headers.CONTENT_LENGTH, _NOTHING),
        special.get(headers.TRANSFER_ENCODING, _NOTHING),
        version, status, request_method,
    )  # fmt: skip
    keep_alive = version == 11
    if headers.CONNECTION in special:
        named = b",".join(special[headers.CONNECTION])
        plain = _plain_option(named)
        if plain is None:
            options = headers.list_items(named)
            plain = b"close" not in options and (keep_alive or b"keep-alive" in options)
            fields = headers.without_named(fields, options)
        keep_alive = plain
    if body == UNTIL_CLOSE or status == 101:
        keep_alive = False
    upgrade = b", ".join(special[headers.UPGRADE]) if status == 101 and headers.UPGRADE in special else None
    head = ResponseHead(version, status, reason or b"", fields, body, declared, keep_alive, upgrade, has_date)
    return head, match.end()


def connection_lines(head: RequestHead) -> bytes:
    """``Connection``, ``Upgrade`` and ``TE`` lines for the next hop, as ``extra`` of :func:`serialize_request`."""
    if head.upgrade is None:
        return b"Connection: TE\r\nTE: trailers\r\n" if head.te_trailers else b""
    if head.te_trailers:
        return b"Connection: Upgrade, TE\r\nUpgrade: %b\r\nTE: trailers\r\n" % head.upgrade
    return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade


def _lines(fields: Fields) -> bytes:
    return b"\r\n".join(map(b": ".join, fields)) + b"\r\n" if fields else b""


def serialize_request(head: RequestHead, extra: bytes) -> bytes:
    """The head to send upstream, as HTTP/1.1. ``extra`` is complete lines, each with its CRLF.

    A request without a host (HTTP/1.0) goes on with an empty Host, as RFC 9112 3.2 says.
    """
    body = head.body
    if body > 0:
        framing_line = b"Content-Length: %d\r\n" % body
    elif body == CHUNKED:
        framing_line = b"Transfer-Encoding: chunked\r\n"
    else:
        framing_line = b"Content-Length: 0\r\n" if head.method in _METHODS_WITH_CONTENT else b""
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%b\r\n" % (
        head.method, head.target, head.host, _lines(head.fields), framing_line, extra,
    )  # fmt: skip


def serialize_response(head: ResponseHead, client_version: int, framing: bytes, extra: bytes) -> bytes:
    """The head to send to a client of version 10 or 11. ``framing`` and ``extra`` are complete lines with their CRLF.

    The status line always says HTTP/1.1, the version that is spoken here (RFC 9110 6.2). Raises ValueError for what an
    HTTP/1.0 client cannot read: interim answers and transfer codings.
    """
    if client_version == 10 and (head.status < 200 or framing.startswith(b"Transfer-Encoding")):
        raise ValueError("HTTP/1.0 clients know neither interim answers nor transfer codings")
    return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (head.status, head.reason, _lines(head.fields), framing, extra)
