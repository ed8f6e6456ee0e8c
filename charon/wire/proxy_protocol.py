"""The PROXY protocol, versions 1 and 2: who a connection is really from, said by the proxy in front (the specification
is HAProxy's ``proxy-protocol.txt``).

Strict in both directions. Parsed from exactly its own bytes: :func:`parse` says how many may be read next without
touching what follows the header.
Trust: only the word of peers that a listener names is asked for; that is the caller's business.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from charon.base.errors import BAD_PROXY_HEADER, BadMessage

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1: Final = 107
"""Bytes of a header of version 1, with its end of line (section 2.1)."""

MAX_V2: Final = 16 + 2048
"""Bytes of a header of version 2. The address takes at most 216; the rest are extensions, which are not used."""

_SHORTEST: Final = 15  # b"PROXY UNKNOWN\r\n"
_V1: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})\r\n")
_V1_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [ -~]*)?\r\n")
_LOCAL, _PROXY = 0, 1
_FAMILIES: Final = {0x11: (12, 4), 0x21: (36, 16)}
"""TCP over IPv4 and IPv6: bytes of the whole address block, and of each address in it."""
_UNIX_STREAM: Final = 0x31
_UNIX_SIZE: Final = 216


class Peers(NamedTuple):
    """Where a connection comes from and where it went; addresses are literals in their usual form."""

    source: str
    source_port: int
    destination: str
    destination_port: int


class Header(NamedTuple):
    """A whole header. ``peers`` is None where it says that the connection is the proxy's own, or of no known kind."""

    peers: Peers | None


def parse(data: bytes) -> Header | int:
    """The header that ``data`` is, or how many bytes to read at most before asking again. Raises BadMessage."""
    start = data[: len(SIGNATURE)]
    if SIGNATURE.startswith(start) and data:
        return 16 - len(data) if len(data) < 16 else _parse_v2(data)
    if not b"PROXY ".startswith(data[:6]):
        raise _bad("no PROXY header where one must be")
    if data.endswith(b"\r\n"):
        return _parse_v1(data)
    missing = 1 if data.endswith(b"\r") else 2
    if len(data) + missing > MAX_V1:
        raise _bad(f"a line of more than {MAX_V1} bytes")
    if b"\n" in data or b"\r" in data[:-1]:
        raise _bad("a line that ends in the wrong way")
    return max(_SHORTEST - len(data), missing)


def _parse_v1(data: bytes) -> Header:
    if b"\r" in data[:-2] or b"\n" in data[:-2] or len(data) > MAX_V1:
        raise _bad("a line that ends in the wrong way")
    if _V1_UNKNOWN.fullmatch(data):
        return Header(None)
    found = _V1.fullmatch(data)
    if found is None:
        raise _bad("a line that is none of the three kinds")
    kind, source, destination, *ports = (text.decode("ascii") for text in found.groups())
    version = 4 if kind == "TCP4" else 6
    addresses = [_address(text, version) for text in (source, destination)]
    numbers = [_port(text) for text in ports]
    return Header(Peers(addresses[0], numbers[0], addresses[1], numbers[1]))


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text)
    except ValueError:
        raise _bad("an address that is none") from None
    return str(address)


def _port(text: str) -> int:
    if int(text) > 65_535 or (text.startswith("0") and text != "0"):
        raise _bad("a port that is none")
    return int(text)


def _parse_v2(data: bytes) -> Header | int:
    if data[12] >> 4 != 2:
        raise _bad("a version that is not 2")
    command, family = data[12] & 0x0F, data[13]
    if command not in (_LOCAL, _PROXY):
        raise _bad("a command that is neither LOCAL nor PROXY")
    if family >> 4 > 3 or family & 0x0F > 2:
        raise _bad("a family or a transport that is none")
    whole = 16 + int.from_bytes(data[14:16])
    if whole > MAX_V2:
        raise _bad(f"more than {MAX_V2} bytes")
    if len(data) < whole:
        return whole - len(data)
    if len(data) > whole:
        raise _bad("more than the header")
    return _addresses(command, family, data[16:])


def _addresses(command: int, family: int, block: bytes) -> Header:
    if command == _LOCAL:
        return Header(None)  # a connection of the proxy's own; whatever address stands there is to be ignored
    if family == _UNIX_STREAM:
        if len(block) < _UNIX_SIZE:
            raise _bad("an address block that is too short")
        _check_extensions(block[_UNIX_SIZE:])
        return Header(None)
    if family not in _FAMILIES:
        return Header(None)  # unspecified, or datagrams: to be taken as the real connection's
    size, width = _FAMILIES[family]
    if len(block) < size:
        raise _bad("an address block that is too short")
    _check_extensions(block[size:])
    source, destination = (str(ipaddress.ip_address(block[at : at + width])) for at in (0, width))
    ports = block[2 * width : size]
    return Header(Peers(source, int.from_bytes(ports[:2]), destination, int.from_bytes(ports[2:])))


def _check_extensions(rest: bytes) -> None:
    """Type, length and value each, to the byte (section 2.2); what they say is not used."""
    while rest:
        if len(rest) < 3 or len(rest) < 3 + int.from_bytes(rest[1:3]):
            raise _bad("an extension that goes beyond the end")
        rest = rest[3 + int.from_bytes(rest[1:3]) :]


def header(version: int, peers: Peers | None) -> bytes:
    """The header of ``version`` 1 or 2 that says ``peers``; None: the connection is this proxy's own.

    Both addresses must be of one family; where they are not, it says as much as with None. Raises ValueError for an
    address that is none.
    """
    ends = None
    if peers is not None:
        ends = ipaddress.ip_address(peers.source), ipaddress.ip_address(peers.destination)
    if peers is None or ends is None or ends[0].version != ends[1].version:
        return b"PROXY UNKNOWN\r\n" if version == 1 else SIGNATURE + b"\x20\x00\x00\x00"
    four = ends[0].version == 4
    if version == 1:
        kind = "TCP4" if four else "TCP6"
        return f"PROXY {kind} {ends[0]} {ends[1]} {peers.source_port} {peers.destination_port}\r\n".encode("ascii")
    block = ends[0].packed + ends[1].packed + peers.source_port.to_bytes(2) + peers.destination_port.to_bytes(2)
    return SIGNATURE + (b"\x21\x11" if four else b"\x21\x21") + len(block).to_bytes(2) + block


def _bad(what: str) -> BadMessage:
    return BadMessage(BAD_PROXY_HEADER, what)
