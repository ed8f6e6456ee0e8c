"""The way of one request through a configuration, found by the code that carries requests, and told in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from charon.base.errors import NO_ROUTE, UNKNOWN_SERVICE, Reason
from charon.base.units import format_duration
from charon.cli.terminal import Cell, Style, columns
from charon.config.snapshot import ListenerSpec, RouteSpec
from charon.policy.edits import Redirect, Rewrite
from charon.policy.routes import RouteTable, host_key
from charon.policy.split import Split
from charon.wire.limits import HeadLimits
from charon.wire.messages import RequestHead, parse_request
from charon.wire.target import normalise_path

MOST_BEFORE: Final = 8
"""Rules before the one that matched whose mismatch is told."""

Live = Mapping[str, Sequence[Mapping[str, Any]]]
"""Services of ``/api/services``."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asks about. ``port`` is None where the URL has none."""

    method: str
    target: str
    host: str
    port: int | None
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, method: str, url: str, headers: Sequence[str]) -> Asked:
        """Raises ValueError, with what is wrong."""
        if not url.startswith("/"):
            parts = urlsplit(url if "://" in url else f"http://{url}")
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ValueError(f"{url!r} is not a URL; write http://host/path, or /path")
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            host, port = parts.netloc.rpartition("@")[2], parts.port
        else:
            target, host, port = url.partition("#")[0], "localhost", None
        given = []
        for header in headers:
            name, colon, value = header.partition(":")
            if not colon:
                raise ValueError(f"{header!r} is not a header field; write 'NAME: VALUE'")
            given.append((name.strip(), value.strip()))
        named = [value for name, value in given if name.lower() == "host"]
        rest = tuple((name, value) for name, value in given if name.lower() != "host")
        return cls(method, target, named[-1] if named else host, port, rest)


def choose_listener(specs: Sequence[ListenerSpec], asked: Asked, name: str | None) -> ListenerSpec:
    """The listener that the request comes to. Raises ValueError when that is not clear, or carries no HTTP."""
    if name is not None:
        found = [spec for spec in specs if spec.name == name]
        if not found:
            raise ValueError(f"there is no listener {name!r}; there are {', '.join(spec.name for spec in specs)}")
        if found[0].protocol == "tcp":
            raise ValueError(f"the listener {name} carries TCP: all of it goes to {found[0].default_service}")
        return found[0]
    http = [spec for spec in specs if spec.protocol != "tcp"]
    if asked.port is not None:
        at_port = [spec for spec in http if spec.address.rpartition(":")[2] == str(asked.port)]
        if len(at_port) == 1:
            return at_port[0]
    if len(http) == 1:
        return http[0]
    names = ", ".join(spec.name for spec in http) or "none"
    raise ValueError(f"it is not clear which listener is meant; write --listener NAME (HTTP listeners: {names})")


def parse(asked: Asked, spec: ListenerSpec) -> RequestHead:
    """The request as the listener would read it. Raises BadMessage where it would refuse it, ValueError for none."""
    fields = [("Host", asked.host), *asked.headers]
    lines = [f"{asked.method} {asked.target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    limits = HeadLimits(max_header_bytes=spec.limits.max_header_bytes, max_headers=spec.limits.max_headers)
    parsed = parse_request("\r\n".join(lines).encode("utf-8", "surrogateescape"), limits)
    if parsed is None:
        raise ValueError("that is no whole request")
    return parsed[0]


def way(
    spec: ListenerSpec, head: RequestHead, known: Mapping[str, Sequence[str]], live: Live | None, style: Style
) -> tuple[list[str], bool]:
    """The way in lines, and whether the request would be carried on or redirected.

    ``known`` are the services with their addresses, as configured; ``live`` those of a running Charon, None without
    one.
    """
    path = head.path.decode("ascii")
    lines = [style.bold(f"{head.method.decode('ascii')} {head.host.decode('ascii')} {head.target.decode('ascii')}")]
    lines.append(f"  listener {spec.name}, {spec.protocol} at {spec.address}")
    if spec.metrics_path == path and head.method in (b"GET", b"HEAD"):
        return [
            *lines,
            f"  answered with Charon's own metrics: {path} is metrics.path, and metrics.on_listeners is on",
        ], True
    route = RouteTable(spec.routes).match(host_key(head.host), head.path, head.method, head.fields)
    lines += _rules(spec, route, head)
    if route is not None and route.redirect is not None:
        query = head.target[len(head.path) :]
        scheme = b"http" if spec.tls is None else b"https"
        location = Redirect(route.redirect).location(scheme, head.host, head.path, query)
        return [*lines, f"  redirected: {route.redirect.status}, Location: {location.decode('ascii')}"], True
    if route is None and spec.default_service is None:
        return [*lines, *_refused(NO_ROUTE, style)], False
    return _forwarded(spec, route, head, lines, known, live, style)


def _refused(reason: Reason, style: Style) -> list[str]:
    return [style.red(f"  answered {reason.status} {reason.word}: {reason.text}")]


def _rules(spec: ListenerSpec, route: RouteSpec | None, head: RequestHead) -> list[str]:
    """Which rule it falls under, and why none before it."""
    if not spec.routes:
        return ["  there are no routes: all goes to the default service"]
    place = next((index for index, one in enumerate(spec.routes) if one is route), len(spec.routes))
    lines = []
    for index, one in enumerate(spec.routes[max(0, place - MOST_BEFORE) : place], max(0, place - MOST_BEFORE)):
        lines.append(f"  not route {index + 1}, {one.name}: {' and '.join(_unmet(one, head))}")
    if place > MOST_BEFORE:
        lines.insert(0, f"  none of routes 1 to {place - MOST_BEFORE}")
    if route is None:
        return [*lines, f"  no route matches (of {len(spec.routes)}): the default service"]
    met = " and ".join(_conditions(route)) or "it matches everything"
    return [*lines, f"  route {place + 1} of {len(spec.routes)}, {route.name}: {met}"]


def _single(route: RouteSpec) -> list[tuple[str, RouteSpec]]:
    """Each condition of a route in words, and as a route of its own."""
    found: list[tuple[str, RouteSpec]] = []
    if route.host is not None:
        found.append((f"the host is {route.host}", RouteSpec("", None, host=route.host)))
    if route.path is not None:
        found.append((f"the path is {route.path}", RouteSpec("", None, path=route.path)))
    if route.path_prefix is not None:
        found.append((f"the path begins with {route.path_prefix}", RouteSpec("", None, path_prefix=route.path_prefix)))
    if route.path_regex is not None:
        found.append((f"the path is like {route.path_regex}", RouteSpec("", None, path_regex=route.path_regex)))
    if route.methods:
        found.append((f"the method is {' or '.join(route.methods)}", RouteSpec("", None, methods=route.methods)))
    for name, value in route.headers:
        text = f"there is a field {name}" if value == "*" else f"there is a field {name}: {value}"
        found.append((text, RouteSpec("", None, headers=((name, value),))))
    return found


def _conditions(route: RouteSpec) -> list[str]:
    return [text for text, _ in _single(route)]


def _unmet(route: RouteSpec, head: RequestHead) -> list[str]:
    """The conditions that the request does not meet."""

    def met(single: RouteSpec) -> bool:
        return RouteTable([single]).match(host_key(head.host), head.path, head.method, head.fields) is not None

    unmet = [text for text, single in _single(route) if not met(single)]
    return [text.replace(" is ", " is not ", 1).replace(" begins ", " does not begin ", 1) for text in unmet]


def _forwarded(
    spec: ListenerSpec,
    route: RouteSpec | None,
    head: RequestHead,
    lines: list[str],
    known: Mapping[str, Sequence[str]],
    live: Live | None,
    style: Style,
) -> tuple[list[str], bool]:
    services = _services(route, spec, head)
    target, host = head.target, head.host
    if route is not None and route.rewrite is not None:
        rewrite = Rewrite(route.rewrite, route.path_prefix or route.path, normalise_path)
        target = rewrite.target(head.path, head.target[len(head.path) :])
        host = rewrite.host if rewrite.host is not None else host
        lines.append(f"  rewritten: asks {host.decode('ascii')} for {target.decode('ascii')}")
    lines += _treatment(spec, route)
    carried = False
    for name, share in services:
        lines.append(f"  service {name}{share}")
        if live is not None and name in live:
            rows = [_live_row(one, style) for one in live[name]]
            lines += columns(rows, indent="    ") if rows else ["    no endpoint"]
            carried = carried or bool(rows)
        elif name in known:
            lines += [f"    {address}" for address in known[name]] or ["    no endpoint"]
            carried = carried or bool(known[name])
        else:
            lines += ["  " + line for line in _refused(UNKNOWN_SERVICE, style)]
    lines.append(
        style.faint("  endpoints as they are now" if live is not None else "  no Charon runs here: as configured")
    )
    return lines, carried


def _services(route: RouteSpec | None, spec: ListenerSpec, head: RequestHead) -> list[tuple[str, str]]:
    """The services that the request may go to, each with its share in words."""
    if route is None or not route.services:
        return [((route.service if route is not None else spec.default_service) or "", "")]
    split = Split(route.services, route.sticky)
    ends = {split.assign(head.fields, point)[0] for point in (0.0, 0.999999)}
    total = sum(weight for _, weight in route.services)
    if len(ends) == 1 and sum(1 for _, weight in route.services if weight) > 1:
        return [(ends.pop(), f", which {route.sticky} keeps this client with")]
    return [(name, f", {100 * weight / total:g} %") for name, weight in route.services if weight]


def _treatment(spec: ListenerSpec, route: RouteSpec | None) -> list[str]:
    """What is done with it on the way, as far as it is out of the ordinary."""
    lines = []
    limits = [spec.rate_limit, route.rate_limit if route is not None else None]
    for limit in limits:
        if limit is not None:
            paths = f" for {', '.join(limit.prefixes)}" if limit.prefixes else ""
            lines.append(f"  rate limit {limit.name}{paths}: {limit.rate:g}/s, burst {limit.burst}, by {limit.key}")
    for access in (spec.access, route.access if route is not None else None):
        if access is not None:
            allow, deny = ", ".join(access.allow) or "everybody", ", ".join(access.deny)
            lines.append(f"  lets in {allow}" + (f", but for {deny}" if deny else ""))
    if route is not None and route.timeout is not None:
        lines.append(f"  timeout {format_duration(route.timeout)}")
    if route is not None and route.retry is not None:
        lines.append(f"  retries: {route.retry.attempts} on {', '.join(route.retry.on)}")
    if route is not None and (route.request_headers is not None or route.response_headers is not None):
        lines.append("  its header fields, or those of its answer, are changed")
    return lines


def _live_row(one: Mapping[str, Any], style: Style) -> list[Cell]:
    health = {None: Cell("not probed"), True: Cell("up", style.green), False: Cell("down", style.red)}[one["healthy"]]
    open_ = one["breaker"] != "closed"
    breaker = Cell(f"breaker {one['breaker'].replace('_', '-')}", style.red) if open_ else Cell("")
    aside = Cell("set aside", style.red) if one["ejected"] else Cell("")
    return [Cell(one["endpoint"]), health, breaker, aside]
