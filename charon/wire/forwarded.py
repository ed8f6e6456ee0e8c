"""Where a request came from: X-Forwarded-*, Forwarded, Via, and whom to believe (RFC 7239, RFC 9110 7.6.3).

Anyone can write these fields, so only what a trusted peer sent is kept. Everything here came through the grammar of
field values and hosts, which have no CR and no LF: nothing a client sends can break out of a line.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from charon.wire.messages import RequestHead
from charon.wire.target import is_host

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNIX: Final = "unix"

_CACHE_ENTRIES: Final = 1024
# How many proxies may stand before this one. A client that writes a long chain of trusted addresses costs no more.
_MAX_HOPS: Final = 32
_VERSIONS: Final = {10: b"1.0", 11: b"1.1"}
_SCHEMES: Final = frozenset((b"http", b"https"))

# What a chain of addresses is made of: addresses with or without port, the words and obfuscated names of RFC 7239 6,
# commas and blanks.
_CHAIN: Final = re.compile(rb"[0-9A-Za-z.:_\-\[\]%, \t]++")

# Written anew below, so not passed through from trusted peers.
_CLIENT_CERT: Final = b"x-forwarded-client-cert"
_REWRITTEN: Final = frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via", _CLIENT_CERT)
)


def parse_address(text: str) -> _Address | None:
    """The address in one X-Forwarded-For element (``10.0.0.1``, ``10.0.0.1:80``, ``::1``, ``[::1]:80``), or None.

    An IPv4 address in IPv6 clothes, as sockets that serve both report it, is given as IPv4. Zones are dropped.
    """
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or not (port == "" or _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, port = text.split(":")
        if not _is_port(":" + port):
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_port(text: str) -> bool:
    digits = text[1:]
    return text.startswith(":") and digits.isascii() and digits.isdigit() and len(digits) <= 5


class TrustedPeers:
    """The peers whose word about the client is taken: networks and addresses, and ``unix`` for Unix sockets.

    A Unix socket's peer has the address ``""`` or ``unix``. Raises ValueError for a string that is no network.
    """

    __slots__ = ("_cache", "_networks", "_local")

    def __init__(self, networks: tuple[str, ...] = ()) -> None:
        self._local = UNIX in networks
        self._networks: tuple[_Network, ...] = tuple(
            ipaddress.ip_network(text, strict=False) for text in networks if text != UNIX
        )
        self._cache: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return self._local or bool(self._networks)

    def __repr__(self) -> str:
        names = [str(network) for network in self._networks] + [UNIX] * self._local
        return f"<TrustedPeers {', '.join(names) or 'none'}>"

    def trusts(self, peer_ip: str) -> bool:
        """True when the peer of this address is trusted. An address that is none is not."""
        if not self._networks and not self._local:
            return False
        known = self._cache.get(peer_ip)
        if known is None:
            if len(self._cache) >= _CACHE_ENTRIES:
                self._cache.clear()
            known = self._cache[peer_ip] = self._look_up(peer_ip)
        return known

    def _look_up(self, peer_ip: str) -> bool:
        if peer_ip in ("", UNIX):
            return self._local
        address = parse_address(peer_ip)
        return address is not None and self.holds(address)

    def holds(self, address: _Address) -> bool:
        """True when one of the networks holds ``address``."""
        return any(address in network for network in self._networks)


def _values(head: RequestHead, name: bytes) -> list[bytes]:
    return [value for key, value in head.forwarded or () if key == name]


def _only(values: list[bytes]) -> bytes:
    """The one value, or nothing when there are several: which of them counts would be a guess."""
    return values[0] if len(values) == 1 else b""


def _via(head: RequestHead, instance: bytes) -> bytes:
    entries = [value for value in _values(head, b"via") if value]
    entries.append(_VERSIONS[head.version] + b" charon-" + instance)
    return b"Via: %b\r\n" % b", ".join(entries)


def _node(peer: bytes) -> bytes:
    """RFC 7239 6: an IPv6 address stands in brackets and quotes; a peer without an address is ``unknown``."""
    if not peer:
        return b"unknown"
    return b'"[%b]"' % peer if b":" in peer else peer


def _trusted_lines(head: RequestHead, peer: bytes, scheme: bytes, client_cert: bytes) -> bytes:
    """What a trusted peer said, with this hop added."""
    chain = [value for value in _values(head, b"x-forwarded-for") if _CHAIN.fullmatch(value)]
    if peer:
        chain.append(peer)
    proto = _only(_values(head, b"x-forwarded-proto")).lower()
    host = _only(_values(head, b"x-forwarded-host"))
    lines = []
    if chain:
        lines.append(b"X-Forwarded-For: " + b", ".join(chain))
    lines.append(b"X-Forwarded-Proto: " + (proto if proto in _SCHEMES else scheme))
    if not is_host(host):
        host = head.host
    if host:
        lines.append(b"X-Forwarded-Host: " + host)
    elements = [value for value in _values(head, b"forwarded") if value]
    if elements:
        # Without this hop the chain would say that our own peer is the client.
        elements.append(b"for=%b;proto=%b" % (_node(peer), scheme))
        lines.append(b"Forwarded: " + b", ".join(elements))
    certs = [value for value in _values(head, _CLIENT_CERT) if value]
    if client_cert:
        certs.append(client_cert)
    if certs:
        lines.append(b"X-Forwarded-Client-Cert: " + b",".join(certs))
    lines += [b"%b: %b" % field for field in head.forwarded or () if field[0] not in _REWRITTEN]
    return b"\r\n".join(lines) + b"\r\n"


def request_extra(
    head: RequestHead, peer_ip: str, scheme: bytes, trusted: bool, instance: bytes, client_cert: bytes = b""
) -> bytes:
    """The lines X-Forwarded-For, -Proto, -Host, -Client-Cert and Via for the next hop, each with its CRLF.

    ``peer_ip`` is the address of the socket's peer, empty for a Unix socket; ``scheme`` is ``http`` or ``https``.
    ``client_cert`` is what X-Forwarded-Client-Cert says of the peer's own certificate, empty where it has shown none.
    What an untrusted peer sent of this family is dropped and replaced; what a trusted one sent is continued. Via is
    always continued (RFC 9110 7.6.3), with the version in which the request came.
    """
    peer = b"" if peer_ip == UNIX else peer_ip.encode("ascii")
    if head.forwarded is None and peer and head.host and head.version == 11:  # nearly always
        lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nVia: 1.1 charon-%b\r\n" % (
            peer, scheme, head.host, instance,
        )  # fmt: skip
        return lines + b"X-Forwarded-Client-Cert: %b\r\n" % client_cert if client_cert else lines
    if trusted:
        lines = _trusted_lines(head, peer, scheme, client_cert)
    else:
        lines = b"X-Forwarded-For: %b\r\n" % peer if peer else b""
        lines += b"X-Forwarded-Proto: %b\r\n" % scheme
        if head.host:
            lines += b"X-Forwarded-Host: %b\r\n" % head.host
        if client_cert:
            lines += b"X-Forwarded-Client-Cert: %b\r\n" % client_cert
    return lines + _via(head, instance)


def is_loop(head: RequestHead, instance: bytes) -> bool:
    """True when Via says that the request has been through this very instance before."""
    if head.forwarded is None:
        return False
    pseudonym = b"charon-" + instance
    for value in _values(head, b"via"):
        for entry in value.split(b","):
            # RFC 9110 7.6.3: received-protocol RWS received-by [ RWS comment ]
            words = entry.split(None, 2)
            if len(words) > 1 and words[1] == pseudonym:
                return True
    return False


def client_address(head: RequestHead, peer_ip: str, trusted: TrustedPeers) -> str:
    """The address that a rate limit counts and a log names: the peer, or what trusted peers say lies behind it.

    X-Forwarded-For is read from the right, as each proxy has added its own peer there; the first address that is not
    trusted is the client. An element that is no address ends the search at the last one that was, and so does the 32nd.
    """
    if head.forwarded is None or not trusted.trusts(peer_ip):
        return peer_ip
    found = peer_ip
    elements = b",".join(_values(head, b"x-forwarded-for")).rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]
    for element in reversed(elements):
        address = parse_address(element.strip(b" \t").decode("latin-1"))
        if address is None:
            break
        found = str(address)
        if not trusted.holds(address):
            break
    return found
