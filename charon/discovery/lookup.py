"""One answer to one name: the hosts file, then the name servers, then what else the system is set up to ask.

The name servers are asked with dnspython (search list, several servers, truncation, spoofed answers), because only
the protocol tells how long an answer holds, and because its sockets cooperate under monkey-patched gevent, where
``getaddrinfo`` occupies one of a few threads for as long as a resolver is slow.

Trust: answers come from the network. They are used as addresses and times to live only, both checked here.
"""

from __future__ import annotations

import io
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import dns.exception
import dns.nameserver
import dns.resolver
import gevent
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original

from charon.discovery.source import Spawn

HOSTS_TTL = 5.0
"""Seconds between looks at the hosts file for a name found there; parsed again only when the file has changed."""

SYSTEM_TTL = 30.0
"""Seconds an answer of ``getaddrinfo`` holds: it does not say how long it should."""

SECOND_FAMILY_WAIT = 0.5
"""Seconds that an answer of IPv4 addresses waits for the IPv6 ones: some name servers drop what they do not know."""

PLAIN_NSSWITCH = frozenset({"files", "dns", "resolve", "myhostname"})
"""Sources of ``hosts:`` in nsswitch.conf that the hosts file and the name servers answer for."""

T = TypeVar("T")


class LookupFailed(Exception):
    """Nobody gave an address. ``missing`` is true where the answer was that there is none."""

    def __init__(self, reason: str, missing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Addresses:
    """Literal addresses by family, each sorted; ``None`` for a family that could not be asked. ``ttl`` in seconds."""

    ipv4: tuple[str, ...] | None
    ipv6: tuple[str, ...] | None
    ttl: float


@dataclass(frozen=True, slots=True)
class SystemFiles:
    """Where the system keeps its name service settings."""

    hosts: str = "/etc/hosts"
    resolv_conf: str = "/etc/resolv.conf"
    nsswitch: str = "/etc/nsswitch.conf"


class Lookup:
    """Answers names. ``nameservers`` (literal address, port) replace those of resolv.conf, and the system's extras.

    ``lifetime``: seconds one name may take. ``attempt``: seconds one name server may take before the next is asked.
    """

    def __init__(
        self,
        spawn: Spawn,
        *,
        nameservers: Sequence[tuple[str, int]] | None = None,
        files: SystemFiles | None = None,
        lifetime: float = 5.0,
        attempt: float = 1.0,
    ) -> None:
        self._spawn = spawn
        self._nameservers = nameservers
        self._lifetime = lifetime
        self._attempt = attempt
        files = files or SystemFiles()
        self._hosts = Parsed(files.hosts, parse_hosts)
        self._nsswitch = Parsed(files.nsswitch, needs_system)
        self._stub = Parsed(files.resolv_conf, self._configured)
        # The hub's pool has few threads and other users: name lookups of the system's own kind take at most two.
        self._system_threads = BoundedSemaphore(2)

    def find(self, name: str) -> Addresses:
        """The addresses of ``name``, from the first that knows it; waits for them. Raises :class:`LookupFailed`."""
        known = self._hosts.value().get(name.lower().rstrip("."))
        if is_localhost(name):
            return _localhost(known)
        if known is not None:
            return known
        try:
            return self._ask(name)
        except LookupFailed as failure:
            if not (failure.missing and self._nameservers is None and self._nsswitch.value()):
                raise
            return self._ask_system(name)

    def _ask(self, name: str) -> Addresses:
        resolver = self._stub.value()
        if isinstance(resolver, str):
            raise LookupFailed(resolver, missing=True)
        second: list[_Family] = []
        helper = self._spawn(f"dns-aaaa:{name}", lambda: second.append(_query(resolver, name, "AAAA")))
        try:
            first = _query(resolver, name, "A")
            helper.join(timeout=SECOND_FAMILY_WAIT if first.addresses else None)
        finally:
            helper.kill()
        return _combine(first, second[0] if second else _Family(None, reason="no answer about IPv6 in time"))

    def _ask_system(self, name: str) -> Addresses:
        with self._system_threads:
            try:
                found = gevent.get_hub().threadpool.apply(_getaddrinfo, (name,))
            except (OSError, UnicodeError) as error:
                raise LookupFailed(f"the system's resolver: {error}", missing=True) from error
        return by_family(found, SYSTEM_TTL)

    def _configured(self, text: str) -> dns.resolver.Resolver | str:
        """A resolver set up as resolv.conf says, or what keeps it from being one."""
        resolver = dns.resolver.Resolver(configure=False)
        try:
            resolver.read_resolv_conf(io.StringIO(text))
        except dns.resolver.NoResolverConfiguration:
            if self._nameservers is None:
                return "no name server is configured in resolv.conf"
        except (dns.exception.DNSException, ValueError) as error:
            return f"resolv.conf: {error}"
        if self._nameservers is not None:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._nameservers]
        resolver.lifetime = self._lifetime
        resolver.timeout = self._attempt
        return resolver


class Parsed(Generic[T]):
    """What a small system file says, parsed again only when it has changed. A missing file reads as an empty one."""

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._known: tuple[object, T] | None = None

    def value(self) -> T:
        try:
            status = os.stat(self._path)
            identity: object = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            identity = None
        if self._known is None or self._known[0] != identity:
            self._known = (identity, self._parse(self._text()))
        return self._known[1]

    def _text(self) -> str:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""


def parse_hosts(text: str) -> dict[str, Addresses]:
    """The hosts file (hosts(5)): names in lower case, to all addresses given for them. Odd lines are passed over."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) < 2:
            continue
        try:
            ipaddress.ip_address(fields[0])
        except ValueError:
            continue
        for name in fields[1:]:
            found.setdefault(name.lower().rstrip("."), []).append(fields[0])
    return {name: by_family(addresses, HOSTS_TTL) for name, addresses in found.items()}


def needs_system(text: str) -> bool:
    """Whether nsswitch.conf(5) names a source for hosts that only ``getaddrinfo`` can ask."""
    for line in text.splitlines():
        key, _, value = line.partition("#")[0].partition(":")
        if key.strip() == "hosts":
            sources = re.sub(r"\[.*?\]", " ", value).split()
            return not PLAIN_NSSWITCH.issuperset(sources)
    return False


def is_localhost(name: str) -> bool:
    """Whether the name is loopback by definition, whatever a name server says (RFC 6761 section 6.3)."""
    labels = name.lower().rstrip(".").split(".")
    return labels[-1] == "localhost"


def by_family(addresses: Iterable[str], ttl: float) -> Addresses:
    """Sorted and without repetition, so that the order of an answer is no change."""
    parsed = sorted({ipaddress.ip_address(address) for address in addresses}, key=lambda ip: (ip.version, ip))
    return Addresses(
        tuple(str(ip) for ip in parsed if ip.version == 4),
        tuple(str(ip) for ip in parsed if ip.version == 6),
        ttl,
    )


@dataclass(frozen=True, slots=True)
class _Family:
    """What the name servers said about one family: addresses, none (``()``), or nothing of use (``None``)."""

    addresses: tuple[str, ...] | None
    ttl: float = 0.0
    reason: str = ""


def _query(resolver: dns.resolver.Resolver, name: str, kind: str) -> _Family:
    try:
        answer = resolver.resolve(name, kind, search=True, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return _Family((), reason="the name does not exist")
    except (dns.exception.DNSException, OSError, UnicodeError) as error:
        return _Family(None, reason=str(error) or type(error).__name__)
    if answer.rrset is None:
        return _Family((), reason="the name has no address")
    return _Family(tuple(item.address for item in answer.rrset), float(answer.chaining_result.minimum_ttl))


def _combine(first: _Family, second: _Family) -> Addresses:
    useful = [family for family in (first, second) if family.addresses]
    if useful:
        every = by_family([address for family in useful for address in family.addresses or ()], 0.0)
        return Addresses(
            None if first.addresses is None else every.ipv4,
            None if second.addresses is None else every.ipv6,
            min(family.ttl for family in useful),
        )
    for family in (first, second):
        if family.addresses is None:
            raise LookupFailed(family.reason)
    raise LookupFailed(first.reason, missing=True)


def _localhost(known: Addresses | None) -> Addresses:
    ipv4 = known.ipv4 if known else None
    ipv6 = known.ipv6 if known else None
    return Addresses(ipv4 or ("127.0.0.1",), ipv6 or (("::1",) if _has_ipv6_loopback() else ()), HOSTS_TTL)


def _has_ipv6_loopback() -> bool:
    """Whether this network namespace has ``::1`` (proc_pid_net(5)): without it the address is not worth a try."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            return any(line.startswith(f"{1:032x} ") for line in file)
    except OSError:
        return False


def _getaddrinfo(name: str) -> list[str]:
    """In a thread of its own the real one is wanted, not the cooperative one."""
    real = get_original("socket", "getaddrinfo")
    return [str(item[4][0]) for item in real(name, None, 0, socket.SOCK_STREAM)]
