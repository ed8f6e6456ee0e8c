"""Which rule a request falls under: first match wins, compiled once per snapshot.

Routes are looked up by the host in lower case without its port, and by the normalised path without its query
(:mod:`charon.wire` makes both), so that no spelling of a path slips past a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Route(Protocol):
    """What is looked at of a route; ``host`` is exact or ``*.suffix``, None stands for any."""

    @property
    def host(self) -> str | None: ...

    @property
    def path_prefix(self) -> str | None: ...


R = TypeVar("R", bound=Route)


@dataclass(frozen=True, slots=True)
class _Rule(Generic[R]):
    route: R
    host: bytes | None
    suffix: bytes | None
    prefix: bytes | None
    below: bytes

    def matches_host(self, host: bytes) -> bool:
        if self.suffix is not None:
            return host.endswith(self.suffix) and len(host) > len(self.suffix)
        return self.host is None or self.host == host

    def matches_path(self, path: bytes) -> bool:
        """Whole segments: ``/admin`` covers ``/admin`` and ``/admin/x``, not ``/administrator``."""
        return self.prefix is None or path == self.prefix or path.startswith(self.below)


class RouteTable(Generic[R]):
    """The rules of one listener. ``match`` costs one dictionary look-up and the rules that the host leaves."""

    def __init__(self, routes: Sequence[R]) -> None:
        rules = [_compile(route) for route in routes]
        hosts = {rule.host for rule in rules if rule.host is not None}
        self._by_host = {host: tuple(rule for rule in rules if rule.matches_host(host)) for host in hosts}
        # For hosts that no rule names: wildcards are checked one by one, in their order among the rest.
        self._others = tuple(rule for rule in rules if rule.host is None)
        self.empty = not rules

    def match(self, host: bytes, path: bytes) -> R | None:
        """The first rule for ``host`` (lower case, no port) and ``path`` (normalised, no query), or None."""
        rules = self._by_host.get(host)
        if rules is None:
            for rule in self._others:
                if rule.matches_path(path) and (rule.suffix is None or rule.matches_host(host)):
                    return rule.route
            return None
        for rule in rules:
            if rule.matches_path(path):
                return rule.route
        return None


def _compile(route: R) -> _Rule[R]:
    host = None if route.host is None else route.host.lower().encode("ascii")
    suffix = None
    if host is not None and host.startswith(b"*."):
        suffix = host[1:]
        host = None
    prefix = b"" if route.path_prefix is None else route.path_prefix.encode("ascii")
    prefix = prefix.rstrip(b"/")  # `/admin/` and `/admin` name the same segments; `/` covers everything
    return _Rule(route, host, suffix, prefix or None, prefix + b"/")


def host_key(authority: bytes) -> bytes:
    """The host of an authority for matching: lower case, without port (RFC 9110 section 4.2.3), brackets kept."""
    host, colon, port = authority.rpartition(b":")
    if not colon or (port and not port.isdigit()):  # no port, or a colon inside an IPv6 literal
        host = authority
    return host.lower().removesuffix(b".")  # `example.com.` is the same name, written from the root
