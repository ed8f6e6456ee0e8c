"""Requests that two servers may read with different ends: the mutation families that are publicly known, generated.

Each attack carries the beginning of a request (:data:`POISON`) where one of two readings sees the end of the message.
If Charon and what is behind it ever disagree, the next client's request becomes the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

POISON = b"GET /poison HTTP/1.1\r\nHost: poison.example\r\nX-Swallow: "
"""It has no end: the bytes of whoever comes next are its last field."""

_HEAD = b"%b /attack HTTP/1.1\r\nHost: attack.example\r\n%b\r\n\r\n"
_CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(POISON), POISON)
_ODD = [
    bytes([code]) for code in (0, 1, 8, 9, 10, 11, 12, 13, 14, 0x1C, 0x20, 0x22, 0x27, 0x2C, 0x3B, 0x5C, 0x5F, 0x7F)
]
_ODD += [
    b"\x85",
    b"\xa0",
    b"\xc2\xa0",
    b"\xe2\x80\x8b",
    b"\xef\xbb\xbf",
    b"\r\r",
    b"\n\r",
    b"\t\t",
    b"\r\n ",
    b"\r\n\t",
    b"\n ",
]


@dataclass(frozen=True)
class Attack:
    """What a client sends; ``technique`` says who is meant to obey what: Charon first, the server behind it second."""

    technique: str
    mutation: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.technique}: {self.mutation}"


def field_mutations(name: bytes, value: bytes) -> Iterator[bytes]:
    """Spellings of a field that one reader takes for it and another does not: lines without the last line end."""
    half, middle = name.index(b"-"), len(value) // 2
    yield name + b": " + value
    for odd in _ODD:
        yield odd + name + b": " + value
        yield name + odd + b": " + value
        yield name + b":" + odd + value
        yield name + b": " + value + odd
        yield name[:half] + odd + name[half:] + b": " + value
        yield name + b": " + value[:middle] + odd + value[middle:]
        yield b"X-Before: y" + odd + name + b": " + value
        yield name + b": " + value + odd + b"X-After: y"
    for spelled in (name.lower(), name.upper(), name.swapcase(), name.replace(b"-", b"_"), name.replace(b"-", b"")):
        yield spelled + b": " + value
    for line in (b"%b %b", b"%b=%b", b"%b:%b", b"%b::%b", b":%b: %b", b"%b\r\n: %b", b"%b:\r\n %b", b"%b:\n%b"):
        yield line % (name, value)
    for hop in (b"close, ", b"keep-alive, ", b""):
        yield name + b": " + value + b"\r\nConnection: " + hop + name
    yield b"X-First: y\r\n " + name + b": " + value
    yield b" \r\n" + name + b": " + value
    yield name.replace(b"n", "ŉ".encode(), 1) + b": " + value


def coding_mutations() -> Iterator[bytes]:
    """Lines with a Transfer-Encoding that may mean chunked."""
    name = b"Transfer-Encoding"
    yield from field_mutations(name, b"chunked")
    for value in (
        *(b"CHUNKED", b"cHuNkEd", b"xchunked", b"x chunked", b"x, chunked", b"chunked, x", b"chunkedx", b"chunk"),
        *(b"identity", b"identity, chunked", b"chunked, identity", b"chunked, chunked", b"chunked chunked", b"cow"),
        *(
            b'"chunked"',
            b"'chunked'",
            b"`chunked`",
            b"(chunked)",
            b"[chunked]",
            b"<chunked>",
            b"{chunked}",
            b"%63hunked",
        ),
        *(
            b"chunked,",
            b",chunked",
            b", , chunked",
            b"chunked;",
            b"chunked;q=1",
            b"chunked; x=y",
            b"chunked=1",
            b"=chunked",
        ),
        *(
            b"gzip, chunked",
            b"chunked, gzip",
            b"deflate",
            b"compress, chunked",
            b"chunked/1",
            b"chunked-",
            b"-chunked",
            b"",
        ),
        *(b"chunked\r\nTransfer-Encoding: x", b"x\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding: chunked"),
        *(b"chunked\r\nTransfer-Encoding: identity", b"identity\r\nTransfer-Encoding: chunked"),
        *(
            b"chunked\r\nTransfer-Encoding: chunked",
            b"chunked\r\ntransfer-encoding: cow",
            b"cow\r\ntransfer_encoding: chunked",
        ),
        *(
            b"chunked\r\nTE: chunked",
            b"chunked\r\nTE: trailers\r\nConnection: TE",
            b"chunked\r\nProxy-Connection: close",
        ),
        *(b"chunked\r\nExpect: 100-continue", b"chunked\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings"),
    ):
        yield name + b": " + value


def length_mutations(size: int) -> Iterator[bytes]:
    """Lines with a Content-Length that may mean ``size``."""
    name, value = b"Content-Length", b"%d" % size
    yield from field_mutations(name, value)
    for spelled in (
        *(
            b"+%d",
            b"-%d",
            b"0%d",
            b"000000000000000000000%d",
            b"0x%x",
            b"%x",
            b"0o%o",
            b"%d.0",
            b"%de0",
            b'"%d"',
            b"%d;",
        ),
        *(b"%d,", b",%d", b"%d x", b"x %d", b"%d\r\nContent-Length:", b"1_%d", b"%d\r\nExpect: 100-continue"),
        *(b"%d\r\nExpect: 100-Continue ", b"%d\r\nExpect: x 100-continue", b"%d\r\n Expect: 100-continue"),
        *(
            b"%d\r\nExpect:\r\n 100-continue",
            b"%d\r\nExpect: 100-continue\r\nExpect: x",
            b"%d\r\nConnection: Content-Length",
        ),
        *(b"%d\r\nUpgrade: websocket\r\nConnection: Upgrade", b"%d\r\nUpgrade: h2c\r\nConnection: Upgrade"),
    ):
        yield name + b": " + (spelled % size if b"%" in spelled else spelled)
    for other in (
        b"0",
        b"1",
        b"",
        b"x",
        b"-1",
        b"%d" % (size + 1),
        b"%d" % ((1 << 32) + size),
        b"%d" % ((1 << 64) + size),
    ):
        for first, second in ((value, other), (other, value)):
            yield name + b": " + first + b"\r\n" + name + b": " + second
            yield name + b": " + first + b"\r\n" + name.lower() + b" : " + second
            yield name + b": " + first + b", " + second
            yield name + b": " + first + b"\r\nContent_Length: " + second
        yield name + b": " + other


def chunk_mutations() -> Iterator[bytes]:
    """Chunked bodies that end in different places for those who read sizes, extensions and line ends differently."""
    size, rest = b"%x" % len(POISON), b"\r\n" + POISON + b"\r\n0\r\n\r\n"
    for odd in _ODD:
        yield odd + size + rest
        yield size + odd + rest
        yield size + b";" + odd + rest
        yield size + b";a=" + odd + rest
        yield size + b"\r\n" + POISON + odd + b"0\r\n\r\n"
        yield b"0" + odd + b"\r\n\r\n" + POISON
        yield b"0\r\n" + odd + b"\r\n" + POISON
        yield b"0\r\nX-T: y" + odd + b"\r\n\r\n" + POISON
    for spelled in (
        b"0x%b",
        b"+%b",
        b"-%b",
        b"0000000000000000000000%b",
        b"1%b",
        b"%bg",
        b"%b.0",
        b"1_0%b",
        b"#%b",
        b"%b,0",
    ):
        yield spelled % size + rest
    for bits in (8, 16, 31, 32, 33, 63, 64, 65, 128):
        yield b"%x" % ((1 << bits) + len(POISON)) + rest
        yield b"%x" % (1 << bits) + b"\r\n\r\n" + POISON
    yield b"2\nxx\r\n" + size + rest
    yield b"2;\nxx\r\n" + size + rest
    yield b"2\r\nxx" + size + rest
    yield b"2\r\nxxxx\r\n" + size + rest
    yield b"1;a\n\r\nx\r\n0\r\n\r\n" + POISON
    yield b"5;\n0\r\n\r\n" + POISON
    yield b"0\n\n" + POISON
    yield b"0\r\n\n" + POISON
    yield b"0\n\r\n" + POISON
    yield b"\r\n0\r\n\r\n" + POISON
    yield b"\r\n\r\n" + POISON
    for trailer in (
        b"Content-Length: 9",
        b"Transfer-Encoding: chunked",
        b"Host: x",
        b" folded",
        b"no colon",
        b"a b: c",
        b":",
    ):
        yield b"0\r\n" + trailer + b"\r\n\r\n" + POISON


def attacks() -> Iterator[Attack]:
    """All of them."""

    def attack(technique: str, fields: bytes, body: bytes, method: bytes = b"POST", shown: bytes = b"") -> Attack:
        return Attack(technique, f"{method.decode()} {shown or fields!r}", _HEAD % (method, fields) + body)

    ended = b"0\r\n\r\n" + POISON
    for line in coding_mutations():
        yield attack("CL.TE", b"Content-Length: %d\r\n%b" % (len(ended), line), ended, shown=line)
        yield attack("TE.CL", b"%b\r\nContent-Length: %d" % (line, 4), _CHUNKED, shown=line)
        yield attack("TE.0", line, _CHUNKED)
    for line in length_mutations(len(POISON)):
        yield attack("CL.0", line, POISON)
        yield attack("0.CL", line, POISON, method=b"GET")
    for method in (b"HEAD", b"OPTIONS", b"DELETE", b"PUT", b"PATCH", b"TRACE", b"CONNECT", b"PRI", b"get", b"X"):
        yield attack("CL.0", b"Content-Length: %d" % len(POISON), POISON, method)
        yield attack("TE.0", b"Transfer-Encoding: chunked", _CHUNKED, method)
    for body in chunk_mutations():
        yield attack("TE.TE", b"Transfer-Encoding: chunked", body, shown=body.replace(POISON, b"..."))
    yield from _line_attacks()


def _line_attacks() -> Iterator[Attack]:
    """What is wrong stands in the request line, in Host, or in the ends of lines."""
    length = b"Content-Length: %d\r\n\r\n" % len(POISON)
    for version in (
        b"HTTP/1.0",
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/1.1 ",
        b"http/1.1",
        b"HTTP/01.1",
        b"",
        b"x HTTP/1.1",
    ):
        head = b"POST /attack " + version + b"\r\nHost: attack.example\r\n"
        yield Attack("CL.0", f"version {version!r}", head + length + POISON)
        yield Attack("TE.0", f"version {version!r}", head + b"Transfer-Encoding: chunked\r\n\r\n" + _CHUNKED)
        both = b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"
        yield Attack("TE.CL", f"version {version!r}", head + both + b"0\r\n\r\n" + POISON)
    for target in (
        b"http://attack.example/attack",
        b"http://poison.example/attack",
        b"//poison.example/attack",
        b"*",
        b"/attack\t",
    ):
        for host in (
            b"Host: attack.example",
            b"Host: poison.example",
            b"Host: a\r\nHost: b",
            b"Host : a",
            b"Host: a b",
            b"X: y",
        ):
            data = b"POST " + target + b" HTTP/1.1\r\n" + host + b"\r\n" + length + POISON
            yield Attack("CL.0", f"target {target!r}, {host!r}", data)
    good = b"POST /attack HTTP/1.1\r\nHost: attack.example\r\nX-A: b\r\n" + length
    for number in range(good.count(b"\r\n")):
        for end in (b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\r\n", b"\0\r\n", b" \r\n", b"\x0b\r\n"):
            parts = good.split(b"\r\n")
            head = b"\r\n".join(parts[: number + 1]) + end + b"\r\n".join(parts[number + 1 :])
            yield Attack("CL.0", f"line {number} ends with {end!r}", head + POISON)
