"""The server name that a TLS connection begins with, read without taking part in it (RFC 8446 4.1.2, RFC 6066 3).

Strict: lengths must add up to the byte, and what is no ClientHello is refused, never guessed at.
Trust: the name is what the client says. It is checked to be a host name, and routes by it are the client's choice.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from charon.base.errors import BAD_CLIENT_HELLO, BadMessage
from charon.wire.target import is_host

MAX_HELLO: Final = 16_384
"""Bytes of a ClientHello. Browsers send up to 2 KiB; those with several post-quantum keys stay well below this."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_MAX_RECORD: Final = 16_384


class ClientHello(NamedTuple):
    """``server_name`` is in lower case, None where the client names none or does not speak TLS at all."""

    server_name: str | None
    is_tls: bool


def parse_client_hello(data: bytes) -> ClientHello | None:
    """What ``data``, the beginning of a connection, says; None while that is not all there.

    The handshake message may be spread over records as the client likes. Raises BadMessage.
    """
    if not data:
        return None
    if data[0] != _HANDSHAKE:
        return ClientHello(None, is_tls=False)
    message = bytearray()
    at = 0
    while True:
        if len(data) < at + 5:
            return None
        kind, major, length = data[at], data[at + 1], int.from_bytes(data[at + 3 : at + 5])
        if kind != _HANDSHAKE:
            raise _bad("another record in the middle of the ClientHello")
        if major != 3:
            raise _bad("a version that is none")
        if not 0 < length <= _MAX_RECORD:
            raise _bad("a record that is empty or too long")
        records_end = len(message) + length  # where it is once the record has come whole
        message += data[at + 5 : at + 5 + length]
        if len(message) >= 4:
            whole = _whole(message)
            if records_end > whole:
                raise _bad("something behind the ClientHello in its record")
            if len(message) == whole:
                return ClientHello(_server_name(bytes(message[4:])), is_tls=True)
        elif message and message[0] != _CLIENT_HELLO:
            raise _bad("another message")
        at += 5 + length


def _whole(message: bytearray) -> int:
    """The length of the handshake message, with its header."""
    if message[0] != _CLIENT_HELLO:
        raise _bad("another message")
    length = int.from_bytes(message[1:4])
    if length > MAX_HELLO:
        raise _bad(f"more than {MAX_HELLO} bytes")
    return 4 + length


class _Reader:
    """Vectors with their lengths before them, one after the other."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise _bad("a length that goes beyond the end")
        self._at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """A vector whose length stands before it in ``size`` bytes."""
        return self.take(self.number(size))


def _server_name(body: bytes) -> str | None:
    hello = _Reader(body)
    if hello.number(2) >> 8 != 3:
        raise _bad("a version that is none")
    hello.take(32)  # random
    if len(hello.vector(1)) > 32:
        raise _bad("a session identifier that is too long")
    ciphers = hello.vector(2)
    if not ciphers or len(ciphers) % 2:
        raise _bad("a list of ciphers that is none")
    if not hello.vector(1):
        raise _bad("no compression method, not even none")
    if not hello:
        return None  # TLS 1.2 without extensions
    extensions = _Reader(hello.vector(2))
    if hello:
        raise _bad("something behind the extensions")
    name: str | None = None
    seen: set[int] = set()
    while extensions:
        kind, value = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise _bad("an extension that is there twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _name(value)
    return name


def _name(value: bytes) -> str:
    """RFC 6066 section 3: a list of names, of which there is one kind, and one of each kind."""
    extension = _Reader(value)
    names = _Reader(extension.vector(2))
    if extension or names.number(1) != 0:
        raise _bad("a server name that is none")
    host = names.vector(2)
    if names or len(host) > 255 or host in (b"", b".") or b":" in host or not is_host(host):
        raise _bad("a server name that is none")
    return host.decode("ascii").lower().removesuffix(".")


def _bad(what: str) -> BadMessage:
    return BadMessage(BAD_CLIENT_HELLO, what)
