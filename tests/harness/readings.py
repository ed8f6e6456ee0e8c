"""How servers behind a proxy read a stream of requests: one strictly, others in the careless ways that are known.

A proxy is safe in front of all of them when every one reads the same requests out of what it sends. Nothing here shares
code with Charon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


class Violation(Exception):
    """The strict reading: what came is no HTTP/1.1 as RFC 9112 has it, or is ambiguous."""


@dataclass(frozen=True)
class Seen:
    """A request as it was read. ``fields`` are in order, names in lower case."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def get(self, name: str) -> str:
        """The value of a field; the first of several, ``""`` for none."""
        return next((value for key, value in self.fields if key == name), "")


@dataclass(frozen=True)
class Manner:
    """A careless way of reading. ``line_end`` is what ends a line; with ``folds`` an indented line goes on with the one
    before. Field names lose what is in ``dirt`` at their ends (nothing that a name may hold: with an apostrophe it is
    another field, for everybody), and ``_`` is read as ``-`` with ``underscores``.

    With both a coding and a length, the coding counts where ``coding_wins``. Of several lengths the first counts, or
    the last (``last_length``), and of that the digits at its beginning. Chunk sizes are cut to ``size_bits``.
    """

    name: str
    line_end: bytes = rb"\r?\n"
    folds: bool = True
    dirt: bytes = b" \t\r\v\f\0"
    underscores: bool = False
    coding_wins: bool = True
    any_chunked: bool = True
    last_length: bool = False
    size_bits: int = 64


MANNERS = (
    Manner("coding first, bare line feeds"),
    Manner("length first, folds dropped", coding_wins=False, folds=False),
    Manner("last length, _ is -", last_length=True, underscores=True, coding_wins=False),
    Manner("any control byte ends a line", line_end=rb"\r\n|[\r\n\v\f\x1c-\x1e]", any_chunked=False),
    Manner("sizes of 32 bits", size_bits=32, dirt=b" \t\r\v\f\0\";,()"),
)

_NUMBER = re.compile(rb"\s*[+-]?(0x)?([0-9]+)")
_HEX = re.compile(rb"\s*\+?(?:0x)?([0-9a-f]+)", re.IGNORECASE)


def next_request(data: bytes, manner: Manner) -> tuple[Seen, int] | None:
    """The first request in ``data`` and its length, or None while there is none that is whole."""
    start = 0
    while skip := re.compile(manner.line_end).match(data, start):
        start = skip.end()
    end = re.compile(rb"(?>%b)(?>%b)" % (manner.line_end, manner.line_end)).search(data, start)
    if end is None:
        return None
    first, *lines = re.split(manner.line_end, data[start : end.start()])
    words = first.split()
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and manner.folds and fields:
            fields[-1] = fields[-1][0], fields[-1][1] + b" " + line.strip(manner.dirt)
            continue
        name, _, value = line.partition(b":")
        name = name.strip(manner.dirt).lower()
        fields.append((name.replace(b"_", b"-") if manner.underscores else name, value.strip(manner.dirt)))
    found = _body(data, end.end(), fields, manner)
    if found is None:
        return None
    body, used = found
    shown = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)
    method, target = (words + [b"", b""])[:2]
    return Seen(method.decode("latin-1"), target.decode("latin-1"), shown, body), used


def _body(data: bytes, start: int, fields: list[tuple[bytes, bytes]], manner: Manner) -> tuple[bytes, int] | None:
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    chunked = any(b"chunked" in value if manner.any_chunked else value == b"chunked" for value in codings)
    if chunked and (manner.coding_wins or not lengths):
        return _chunks(data, start, manner)
    length = 0
    if lengths:
        number = _NUMBER.match(lengths[-1 if manner.last_length else 0])
        length = int(number[2]) if number else 0
    return None if len(data) < start + length else (data[start : start + length], start + length)


def _chunks(data: bytes, start: int, manner: Manner) -> tuple[bytes, int] | None:
    line_end = re.compile(manner.line_end)
    body = b""
    while True:
        end = line_end.search(data, start)
        if end is None:
            return None
        number = _HEX.match(data[start : end.start()])
        size = (int(number[1], 16) if number else 0) % (1 << manner.size_bits)
        start = end.end()
        if not size:
            break
        if len(data) < start + size:
            return None
        body += data[start : start + size]
        start += size
        if (end := line_end.match(data, start)) is not None:
            start = end.end()
    while True:  # trailers
        end = line_end.search(data, start)
        if end is None:
            return None
        empty, start = end.start() == start, end.end()
        if empty:
            return body, start


def all_requests(data: bytes, manner: Manner) -> tuple[list[Seen], bytes]:
    """Every whole request in ``data``, and what is left."""
    found = []
    while (one := next_request(data, manner)) is not None:
        found.append(one[0])
        data = data[one[1] :]
    return found, data


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/1\.1\r\n" % _TOKEN)
_FIELD = re.compile(rb"(%b):[ \t]*((?:[!-~\x80-\xff](?:[\t !-~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*\r\n" % _TOKEN)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")


def next_strict(data: bytes) -> tuple[Seen, int] | None:
    """As :func:`next_request`, by the letter. Raises Violation."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    line = _LINE.match(data)
    if line is None:
        raise Violation(f"request line: {data[:80]!r}")
    fields, start = _strict_fields(data, line.end(), end + 2)
    names = [name for name, _ in fields]
    for name in ("host", "content-length", "transfer-encoding"):
        if names.count(name) > 1:
            raise Violation(f"{names.count(name)} fields {name}")
    if "host" not in names:
        raise Violation("no Host")
    known = dict(fields)
    coding, length = known.get("transfer-encoding"), known.get("content-length")
    body = b""
    if coding is not None:
        if coding != "chunked" or length is not None:
            raise Violation(f"Transfer-Encoding {coding!r}, Content-Length {length!r}")
        found = _strict_chunks(data, start + 2)
        if found is None:
            return None
        body, start = found
    else:
        if length is not None and not re.fullmatch("0|[1-9][0-9]*", length):
            raise Violation(f"Content-Length {length!r}")
        size = int(length or 0)
        start += 2
        if len(data) < start + size:
            return None
        body, start = data[start : start + size], start + size
    return Seen(line[1].decode(), line[2].decode(), fields, body), start


def _strict_fields(data: bytes, start: int, end: int) -> tuple[tuple[tuple[str, str], ...], int]:
    fields = []
    while start < end:
        found = _FIELD.match(data, start, end)
        if found is None:
            raise Violation(f"field line: {data[start : start + 80]!r}")
        fields.append((found[1].decode().lower(), found[2].decode("latin-1")))
        start = found.end()
    return tuple(fields), start


def _strict_chunks(data: bytes, start: int) -> tuple[bytes, int] | None:
    body = b""
    while True:
        end = data.find(b"\r\n", start)
        if end < 0:
            return None
        line = _CHUNK.match(data, start)
        if line is None:
            raise Violation(f"chunk size: {data[start : start + 80]!r}")
        size, start = int(line[1], 16), line.end()
        if not size:
            break
        if len(data) < start + size + 2:
            return None
        if data[start + size : start + size + 2] != b"\r\n":
            raise Violation("chunk data longer than its size")
        body += data[start : start + size]
        start += size + 2
    end = start if data[start : start + 2] == b"\r\n" else data.find(b"\r\n\r\n", start) + 2
    if end < start:
        return None
    _strict_fields(data, start, end)
    return (body, end + 2) if len(data) >= end + 2 else None
