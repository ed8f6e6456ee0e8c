"""From an error to the answer that the client sees. The only place where Charon writes an answer of its own."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from time import monotonic

from charon.base.errors import METHOD_NOT_ALLOWED, Reason
from charon.wire.messages import RequestHead

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"

_date = b""
_date_until = 0.0


def http_date() -> bytes:
    """The Date field's value for now (RFC 9110 section 6.6.1), made once a second."""
    global _date, _date_until
    now = monotonic()
    if now >= _date_until:
        _date = formatdate(usegmt=True).encode()
        _date_until = now + 1.0
    return _date


def local_answer(
    reason: Reason,
    *,
    version: int = 11,
    keep_alive: bool = False,
    head_only: bool = False,
    retry_after: int | None = None,
    fields: bytes = b"",
) -> bytes:
    """The whole answer for ``reason``: status, the reason's word in ``X-Charon-Error``, and one line of text.

    ``retry_after`` is in seconds. ``head_only`` leaves the text out (HEAD). ``fields`` are further lines of the head.
    """
    text = b"%b: %b\n" % (reason.word.encode(), reason.text.encode())
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (reason.status, _PHRASES.get(reason.status, b"Error")),
        b"Date: %b\r\nContent-Type: text/plain; charset=utf-8\r\n" % http_date(),
        b"Content-Length: %d\r\nX-Charon-Error: %b\r\n" % (len(text), reason.word.encode()),
    ]
    if retry_after is not None:
        lines.append(b"Retry-After: %d\r\n" % retry_after)
    lines.append(fields)
    if reason is METHOD_NOT_ALLOWED:
        lines.append(b"Allow: %b\r\n" % _METHODS)
    if not keep_alive:
        lines.append(b"Connection: close\r\n")
    elif version == 10:
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    if not head_only:
        lines.append(text)
    return b"".join(lines)


def redirect_answer(status: int, location: bytes, head: RequestHead, keep_alive: bool, fields: bytes = b"") -> bytes:
    """A redirect to ``location``, in answer to ``head``. ``fields`` are further lines of the head."""
    text = b"See %b\n" % location
    connection = b"" if keep_alive and head.version == 11 else b"keep-alive" if keep_alive else b"close"
    return (
        b"HTTP/1.1 %d %b\r\nDate: %b\r\nLocation: %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%b\r\n%b"
        % (
            status,
            _PHRASES[status],
            http_date(),
            location,
            len(text),
            fields + (b"Connection: %b\r\n" % connection if connection else b""),
            b"" if head.method == b"HEAD" else text,
        )
    )
