"""What is wrong with a head that the grammar does not accept: the first fault, by where the bytes prove it.

A fault is proven by a certain prefix of the stream, and the one with the shortest proof is the verdict. So it does not
matter in which pieces the bytes came, nor what follows them. The order of the checks decides only between faults that
the same byte proves. This is the slow way round: good heads never come here, unfinished ones do at every read.
"""

from __future__ import annotations

from typing import Final

from charon.base.errors import (
    BAD_REQUEST,
    BAD_VERSION,
    HEADERS_TOO_LARGE,
    METHOD_NOT_ALLOWED,
    UPSTREAM_MALFORMED,
    URI_TOO_LONG,
    BadMessage,
    Reason,
)
from charon.wire import grammar, target
from charon.wire.limits import HeadLimits

# The longest registered method has 17 letters (UPDATEREDIRECTREF). A bound finds out at once that a stream of letters
# is no HTTP.
MAX_METHOD_BYTES: Final = 64


class _Faults:
    """Collects faults with the number of bytes that prove them, and keeps the first."""

    def __init__(self) -> None:
        self.proof = 1 << 62
        self.fault: BadMessage | None = None

    def add(self, proof: int, reason: Reason, detail: str) -> None:
        self.add_fault(proof, BadMessage(reason, detail))

    def add_fault(self, proof: int, fault: BadMessage) -> None:
        if proof < self.proof:
            self.proof, self.fault = proof, fault


def check_request_line(method: bytes, request_target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, target to forward, and authority, of a request line of good grammar and version.

    Raises :class:`BadMessage` (METHOD_NOT_ALLOWED, BAD_REQUEST).
    """
    if method == b"CONNECT":
        raise BadMessage(METHOD_NOT_ALLOWED, "CONNECT")
    return target.resolve(method, request_target)


def _request_line_fault(line: bytes) -> BadMessage | None:
    match = grammar.REQUEST_LINE.fullmatch(line)
    if match is None:
        return BadMessage(BAD_REQUEST, "the request line is malformed")
    if match[3] not in (b"1.0", b"1.1"):
        return BadMessage(BAD_VERSION, "another HTTP version")
    try:
        check_request_line(match[1], match[2])
    except BadMessage as bad:
        return bad
    return None


def _lengths(faults: _Faults, head: bytes, start: int, line_end: int, limits: HeadLimits) -> None:
    """Method, target and head against their limits; ``line_end`` is where the request line's CRLF stands, or -1."""
    # A CR at the very end may belong to the line break that is still to come.
    known_end = len(head) - head.endswith(b"\r") if line_end < 0 else line_end
    space = head.find(b" ", start, known_end)
    if (known_end if space < 0 else space) - start > MAX_METHOD_BYTES:
        faults.add(start + MAX_METHOD_BYTES + 1, BAD_REQUEST, "the method is too long")
    if space >= 0:
        begin = space + 1
        end = head.find(b" ", begin, known_end)
        if (known_end if end < 0 else end) - begin > limits.max_target_bytes:
            faults.add(begin + limits.max_target_bytes + 1, URI_TOO_LONG, "the target is too long")
    allowed = start + limits.max_header_bytes
    if len(head) > allowed:
        if line_end < 0 or line_end + 2 > allowed:
            faults.add(allowed + 1, URI_TOO_LONG, "the request line is too long")
        else:
            faults.add(allowed + 1, HEADERS_TOO_LARGE, "the head is too long")


def _field_lines(faults: _Faults, head: bytes, begin: int, limits: HeadLimits, bad: Reason, many: Reason) -> None:
    """The complete lines of ``head`` from ``begin`` on, up to its empty line if it is there."""
    match = grammar.FIELD_LINES.match(head, begin)
    assert match is not None, "the pattern matches nothing at least"
    good_end = match.end()
    if head.count(b"\r\n", begin, good_end) > limits.max_headers:
        place = begin
        for _ in range(limits.max_headers + 1):
            place = head.index(b"\r\n", place) + 2
        faults.add(place, many, "too many header fields")
    if head.startswith(b"\r\n", good_end):
        return
    line_end = head.find(b"\r\n", good_end)
    if line_end >= 0:
        faults.add(line_end + 2, bad, "a field line is malformed")


def bare_line_break(data: bytes, start: int = 0) -> int:
    """The number of bytes that prove a bare CR or LF in ``data`` from ``start`` on; 0 when there is none."""
    match = grammar.CLEAN_LINES.match(data, start)
    assert match is not None, "the pattern matches nothing at least"
    place = match.end()
    if place == len(data):
        return 0
    if data.startswith(b"\n", place):
        return place + 1
    # A CR is proven bare by the byte behind it.
    return 0 if place + 1 == len(data) else place + 2


def _bare_line_break(faults: _Faults, head: bytes, start: int, reason: Reason) -> None:
    proof = bare_line_break(head, start)
    if proof:
        faults.add(proof, reason, "a bare CR or LF")


def _cut(buffer: bytes, start: int) -> bytes:
    """``buffer`` up to and with the first empty line after ``start``, or all of it."""
    end = buffer.find(b"\r\n\r\n", start)
    return buffer if end < 0 else buffer[: end + 4]


def request_fault(buffer: bytes, limits: HeadLimits) -> BadMessage | None:
    """The fault of a request head, or None when it is incomplete and nothing is wrong with it so far."""
    start = 2 if buffer.startswith(b"\r\n") else 0
    if len(buffer) == start or buffer == b"\r":
        return None
    if grammar.TOKEN.match(buffer, start) is None:
        return BadMessage(BAD_REQUEST, "no method begins with this byte")
    head = _cut(buffer, start)
    faults = _Faults()
    _bare_line_break(faults, head, start, BAD_REQUEST)
    line_end = head.find(b"\r\n", start)
    _lengths(faults, head, start, line_end, limits)
    if line_end >= 0:
        fault = _request_line_fault(head[start:line_end])
        if fault is not None:
            faults.add_fault(line_end + 2, fault)
        _field_lines(faults, head, line_end + 2, limits, BAD_REQUEST, HEADERS_TOO_LARGE)
    return faults.fault


_STATUS_LINE_BEGINS: Final = b"HTTP/1."


def response_fault(buffer: bytes, limits: HeadLimits) -> BadMessage | None:
    """The same for a response head; the reason is always UPSTREAM_MALFORMED."""
    begins = buffer[: len(_STATUS_LINE_BEGINS)]
    if not _STATUS_LINE_BEGINS.startswith(begins):
        return BadMessage(UPSTREAM_MALFORMED, "the answer is not HTTP/1.x")
    head = _cut(buffer, 0)
    faults = _Faults()
    _bare_line_break(faults, head, 0, UPSTREAM_MALFORMED)
    if len(head) > limits.max_header_bytes:
        faults.add(limits.max_header_bytes + 1, UPSTREAM_MALFORMED, "the head is too long")
    line_end = head.find(b"\r\n")
    if line_end >= 0:
        if grammar.STATUS_LINE.fullmatch(head, 0, line_end) is None:
            faults.add(line_end + 2, UPSTREAM_MALFORMED, "the status line is malformed")
        _field_lines(faults, head, line_end + 2, limits, UPSTREAM_MALFORMED, UPSTREAM_MALFORMED)
    return faults.fault


def trailer_fault(section: bytes, limits: HeadLimits, bad: Reason, too_large: Reason) -> BadMessage | None:
    """The same for the trailer section of a chunked body; it begins behind the line of the last chunk."""
    section = section[:2] if section.startswith(b"\r\n") else _cut(section, 0)
    faults = _Faults()
    _bare_line_break(faults, section, 0, bad)
    if len(section) > limits.max_header_bytes:
        faults.add(limits.max_header_bytes + 1, too_large, "the trailer section is too long")
    _field_lines(faults, section, 0, limits, bad, too_large)
    return faults.fault
