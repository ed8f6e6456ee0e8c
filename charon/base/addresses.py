"""Addresses as values: where to listen, where to connect. Nothing here resolves a name or opens a socket.

Every parser raises :class:`ValueError` with a text for the user that says what is wrong and what is allowed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from charon.base.units import quoted

UNIX_PATH_MAX: Final = 107
"""Longest path of a Unix socket in bytes: sun_path of unix(7) holds 108 with the closing NUL."""

_TARGET_ALLOWED = "write host:port, [ipv6]:port, http://host:port or unix:/path"
_LISTEN_ALLOWED = "write :port, ip:port, [ipv6]:port or unix:/path"

# RFC 1123 section 2.1 (letters, digits, hyphens), and the underscore that service names carry in practice.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_ALL_DIGITS = re.compile(r"[0-9.]+", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4_PORT = re.compile(rf"({_OCTET}(?:\.{_OCTET}){{3}}):([1-9][0-9]{{0,3}})", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP or Unix socket address.

    ``host`` is a name or a literal IP address without brackets (empty: every interface), or the absolute path of a
    Unix socket, and then ``port`` is 0. A listening TCP address may have port 0 as well: any free port.
    """

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        return self.host.startswith("/")

    @property
    def is_ip(self) -> bool:
        """Is the host a literal IP address, so that there is nothing to resolve?"""
        return not self.is_unix and _ip(self.host) is not None

    def __str__(self) -> str:
        host = self.host
        if ":" in host or host.startswith("/"):
            return f"unix:{host}" if self.is_unix else f"[{host}]:{self.port}"
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where to connect, and how: ``scheme`` is ``http``, ``https``, or None where none was written."""

    address: Address
    scheme: str | None = None

    def __str__(self) -> str:
        return str(self.address) if self.scheme is None else f"{self.scheme}://{self.address}"


def parse_port(value: str | int, *, zero: bool = False) -> int:
    """A TCP port from 1, or from 0 with ``zero``, to 65535."""
    text = str(value).strip()
    if isinstance(value, bool) or not _PORT.fullmatch(text) or int(text) > 65535 or (int(text) == 0 and not zero):
        raise ValueError(f"{quoted(value)} is not a port; write a number from {0 if zero else 1} to 65535")
    return int(text)


def parse_listen(text: str) -> Address:
    """Where to listen: ``:8080`` (IPv4 and IPv6), ``127.0.0.1:8080``, ``[::]:8080``, ``unix:/path``; port 0 is any."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    if "://" in text:
        raise ValueError(f"{quoted(text)} is not an address to listen on; {_LISTEN_ALLOWED}")
    address = _parse_host_port(text, zero=True, allowed=_LISTEN_ALLOWED)
    if address.host and not address.is_ip:
        # A name may mean several addresses, and another one tomorrow: which of them would be bound is a guess.
        raise ValueError(
            f"{quoted(text)} is not an address to listen on: {quoted(address.host)} is a name; "
            f"write its IP address, or {quoted(f':{address.port}')} for all interfaces"
        )
    return address


def parse_address(text: str) -> Address:
    """Where to connect: ``host:port``, ``[::1]:80``, ``unix:/path``; ``:9091`` is ``localhost:9091``."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    address = _parse_host_port(text, zero=False, allowed=_TARGET_ALLOWED)
    return address if address.host else Address("localhost", address.port)


def plain_address(text: str) -> Address | None:
    """An IPv4 address and a port, which large registries are full of; None where there is more to look at."""
    found = _IPV4_PORT.fullmatch(text)
    return Address(found.group(1), int(found.group(2))) if found is not None else None


def parse_upstream(text: str) -> Upstream:
    """Where to connect, as :func:`parse_address`, or as ``http(s)://host[:port]`` (port 80 or 443 when left out)."""
    plain = plain_address(text)
    if plain is not None:
        return Upstream(plain)
    if "://" not in text:
        return Upstream(parse_address(text))
    match = _SCHEME.fullmatch(text)
    scheme = match.group(1).lower() if match else ""
    if not match or scheme not in ("http", "https"):
        raise ValueError(f"{quoted(text)} is not an address; {_TARGET_ALLOWED}")
    authority = match.group(2).removesuffix("/")
    if any(c in authority for c in "/?#"):
        raise ValueError(f"{quoted(text)} has a path; an address is only http://host:port")
    if "@" in authority:
        raise ValueError("a user name or password in an address is not supported; write only http://host:port")
    if authority and not re.search(r":[0-9]*\Z", authority.rpartition("]")[2]):
        authority += ":443" if scheme == "https" else ":80"
    return Upstream(parse_address(authority), scheme)


def _parse_host_port(text: str, *, zero: bool, allowed: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise ValueError(f"{quoted(text)} is not an address: the port is missing; {allowed}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host or _ip(host) is None:
            raise ValueError(f"{quoted(text)} is not an address: only an IPv6 address stands in brackets; {allowed}")
    elif ":" in host:
        raise ValueError(f"{quoted(text)} is not an address: an IPv6 address stands in brackets; {allowed}")
    elif host:
        problem = host_problem(host)
        if problem:
            raise ValueError(f"{quoted(text)} is not an address: {problem}; {allowed}")
    try:
        return Address(host, parse_port(port, zero=zero))
    except ValueError as error:
        raise ValueError(f"{quoted(text)} is not an address: {error}") from None


def _parse_unix(text: str) -> Address:
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise ValueError(f"{quoted(text)} is not an address: the path of a Unix socket is absolute, as in unix:/path")
    problem = unix_path_problem(path)
    if problem:
        raise ValueError(f"{quoted(text)} is not an address: {problem}")
    return Address(path, 0)


def unix_path_problem(path: str) -> str | None:
    """Why ``path`` cannot be the path of a Unix socket; None when it can."""
    if "\0" in path or path.endswith("/"):
        return "this is not the path of a file"
    if not path.isprintable():
        return "the path of a socket has only printable characters, as it stands in logs"
    if len(path.encode("utf-8", "surrogateescape")) > UNIX_PATH_MAX:
        return f"the path of a Unix socket has at most {UNIX_PATH_MAX} bytes"
    return None


def host_problem(host: str) -> str | None:
    """Why ``host`` is neither a host name nor an IPv4 address; None when it is one."""
    if _ALL_DIGITS.fullmatch(host):
        return None if _ip(host) is not None else f"{quoted(host)} is not an IPv4 address"
    if not host.isascii():
        return f"{quoted(host)} is not a host name (write its ASCII form, xn--...)"
    if len(host) > 254 or not _NAME.fullmatch(host):
        return f"{quoted(host)} is not a host name"
    return None


_AUTHORITY = re.compile(r"(\[[^\[\]%]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)


def authority_problem(text: str) -> str | None:
    """Why ``text`` is not ``host`` or ``host:port`` as in a Host field or a URL; None when it is."""
    match = _AUTHORITY.fullmatch(text)
    host, port = match.groups() if match else ("", None)
    if host.startswith("["):
        good = isinstance(_ip(host[1:-1]), ipaddress.IPv6Address)
    else:
        good = bool(host) and host_problem(host) is None
    if good and (port is None or 0 < int(port) <= 65535):
        return None
    allowed = "write a name or an address, with :port where one is wanted, such as api.example.com or [::1]:8080"
    return f"{quoted(text)} is not a host; {allowed}"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
