"""Which rule a request falls under: first match wins, compiled once per snapshot.

Routes are looked up by the host in lower case without its port, and by the normalised path without its query
(:mod:`charon.wire` makes both), so that no spelling of a path slips past a rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from charon.base.route_rules import regex_problem

Fields = Sequence[tuple[bytes, bytes]]


class Route(Protocol):
    """What is looked at of a route; all conditions must hold, None or empty stands for any.

    ``host`` is exact or ``*.suffix``. ``path_prefix`` is in whole segments, ``path`` exact, ``path_regex`` over the
    whole path. ``methods`` are in the case in which they are sent. ``headers`` are (name, value) pairs that must be
    there, names in any case; ``*`` is any value.
    """

    @property
    def host(self) -> str | None: ...

    @property
    def path_prefix(self) -> str | None: ...

    @property
    def path(self) -> str | None: ...

    @property
    def path_regex(self) -> str | None: ...

    @property
    def methods(self) -> Sequence[str]: ...

    @property
    def headers(self) -> Sequence[tuple[str, str]]: ...


R = TypeVar("R", bound=Route)


class _Conditions(NamedTuple):
    """Conditions besides host and prefix; a rule that has none has no such object."""

    path: bytes | None
    regex: re.Pattern[bytes] | None
    methods: frozenset[bytes] | None
    headers: tuple[tuple[bytes, bytes | None], ...]

    def hold(self, path: bytes, method: bytes | None, fields: Fields | None) -> bool:
        if self.path is not None and self.path != path:
            return False
        if self.methods is not None and method not in self.methods:
            return False
        if self.regex is not None and self.regex.fullmatch(path) is None:
            return False
        return not self.headers or _all_there(self.headers, fields or ())


def _all_there(wanted: tuple[tuple[bytes, bytes | None], ...], fields: Fields) -> bool:
    """Each name has a field line with the value that is wanted; a field of several lines has several values."""
    for name, value in wanted:
        for sent, held in fields:
            if (value is None or held == value) and len(sent) == len(name) and sent.lower() == name:
                break
        else:
            return False
    return True


class _Rule(Generic[R]):
    __slots__ = ("below", "conditions", "host", "route", "suffix")

    def __init__(
        self, route: R, host: bytes | None, suffix: bytes | None, below: bytes, conditions: _Conditions | None
    ) -> None:
        self.route = route
        self.host = host
        self.suffix = suffix
        self.below = below
        self.conditions = conditions

    def matches_host(self, host: bytes) -> bool:
        if self.suffix is not None:
            return _ends_below(host, self.suffix)
        return self.host is None or self.host == host


def _ends_below(host: bytes, suffix: bytes) -> bool:
    return host.endswith(suffix) and len(host) > len(suffix)


class RouteTable(Generic[R]):
    """The rules of one listener. ``match`` costs one dictionary look-up and the rules that the host leaves."""

    def __init__(self, routes: Sequence[R]) -> None:
        """Raises ValueError for a regular expression that is none."""
        rules = [_compile(route) for route in routes]
        hosts = {rule.host for rule in rules if rule.host is not None}
        self._by_host = {
            host: tuple((rule.below, rule.conditions, rule.route) for rule in rules if rule.matches_host(host))
            for host in hosts
        }
        # For hosts that no rule names: wildcards are checked one by one, in their order among the rest.
        self._others = tuple(
            (rule.below, rule.suffix, rule.conditions, rule.route) for rule in rules if rule.host is None
        )
        self.empty = not rules

    def match(self, host: bytes, path: bytes, method: bytes | None = None, fields: Fields | None = None) -> R | None:
        """The first rule for ``host`` (lower case, no port) and ``path`` (normalised, no query), or None.

        Without a method or fields no rule matches that has a condition on them.
        """
        slashed = path + b"/"
        rules = self._by_host.get(host)
        if rules is None:
            for below, suffix, conditions, route in self._others:
                if (
                    slashed.startswith(below)
                    and (suffix is None or _ends_below(host, suffix))
                    and (conditions is None or conditions.hold(path, method, fields))
                ):
                    return route
            return None
        for below, conditions, route in rules:
            if slashed.startswith(below) and (conditions is None or conditions.hold(path, method, fields)):
                return route
        return None


def _compile(route: R) -> _Rule[R]:
    host = None if route.host is None else route.host.lower().encode("ascii")
    suffix = None
    if host is not None and host.startswith(b"*."):
        suffix = host[1:]
        host = None
    # `/admin/` and `/admin` name the same segments; `/` covers everything, as no prefix does.
    prefix = b"" if route.path_prefix is None else route.path_prefix.encode("ascii").rstrip(b"/")
    # With a slash behind it on both sides: `/admin/` begins `/admin/` and `/admin/x/`, not `/administrator/`.
    return _Rule(route, host, suffix, prefix + b"/" if prefix else b"", _conditions(route))


def _conditions(route: Route) -> _Conditions | None:
    if route.path is None and route.path_regex is None and not route.methods and not route.headers:
        return None
    return _Conditions(
        path=None if route.path is None else route.path.encode("ascii"),
        regex=None if route.path_regex is None else compile_regex(route.path_regex),
        methods=frozenset(method.encode("ascii") for method in route.methods) or None,
        headers=tuple(
            (name.lower().encode("ascii"), None if value == "*" else value.encode("utf-8"))
            for name, value in route.headers
        ),
    )


def compile_regex(pattern: str) -> re.Pattern[bytes]:
    """A pattern over normalised paths, which are ASCII. Raises ValueError that says what is wrong with it."""
    problem = regex_problem(pattern)
    if problem is not None:
        raise ValueError(problem)
    return re.compile(pattern.encode("ascii"))


def host_key(authority: bytes) -> bytes:
    """The host of an authority for matching: lower case, without port (RFC 9110 section 4.2.3), brackets kept."""
    host, colon, port = authority.rpartition(b":")
    if not colon or (port and not port.isdigit()):  # no port, or a colon inside an IPv6 literal
        host = authority
    return host.lower().removesuffix(b".")  # `example.com.` is the same name, written from the root
