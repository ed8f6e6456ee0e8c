"""Mistakes that no single key shows: what keys mean together. Pure; nothing here looks at the machine."""

from __future__ import annotations

from collections.abc import Iterator

from charon.base.addresses import Address, unix_path_problem
from charon.config.document import KeyPath
from charon.config.finding import Finding
from charon.config.intercept_checks import intercept_findings
from charon.config.listeners import TARGETS
from charon.config.problems import nearest
from charon.config.route_checks import route_findings
from charon.config.schema.limits import ServiceLimits
from charon.config.schema.listener import Listener
from charon.config.schema.retry import Retry
from charon.config.schema.root import Root
from charon.config.tls_checks import tls_findings


def findings(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    """Every mistake in a configuration whose values are all valid. ``listeners`` are the effective ones."""
    yield from _listener_list(root)
    for index, listener in enumerate(listeners):
        yield from _targets(root, index, listener)
        yield from _rate_limit(root, index, listener)
    yield from route_findings(root)
    yield from tls_findings(root, listeners)
    yield from intercept_findings(root, listeners)
    yield from _methods(root)
    yield from _pending(root)
    yield from _concurrency(root)
    yield from _collisions(root, listeners)
    yield from _services(root, listeners)
    yield from _admin(root)


def _admin(root: Root) -> Iterator[Finding]:
    admin = root.admin
    if admin.socket is not None and unix_path_problem(admin.socket):
        yield Finding(("admin", "socket"), unix_path_problem(admin.socket) or "")
    if admin.address is not None and admin.address.is_unix:
        yield Finding(("admin", "address"), "a TCP address is expected here, such as 127.0.0.1:9901; see admin.socket")
    for key in ("read_token_file", "write_token_file"):
        if getattr(admin, key) is not None and admin.address is None:
            yield Finding(("admin", key), "it has no effect without admin.address", (("admin", "address"),))


def _listener_list(root: Root) -> Iterator[Finding]:
    if "listeners" not in root.model_fields_set:
        return
    if not root.listeners:
        yield Finding(("listeners",), "there is no listener; give at least one, or listen_port", (("listeners",),))
    if "listen_port" in root.model_fields_set:
        text = "not used together with listeners; give the port an entry there"
        yield Finding(("listen_port",), text)


def origin(root: Root, index: int, key: str) -> KeyPath:
    """Where the effective value of a listener's ``key`` is written: in its entry, or at the top level."""
    if "listeners" in root.model_fields_set and index < len(root.listeners):
        fields = root.listeners[index].model_fields_set
        if key in fields or (key in TARGETS and fields.intersection(TARGETS)):
            return ("listeners", index, key)
    return (key,)


def _entry(root: Root, index: int) -> KeyPath:
    return ("listeners", index) if "listeners" in root.model_fields_set else ()


def _targets(root: Root, index: int, listener: Listener) -> Iterator[Finding]:
    here = _entry(root, index)
    routes = origin(root, index, "routes")
    because = tuple((*at, "protocol") for at in (here, ()))
    for number, route in enumerate(listener.routes):
        if listener.protocol == "http" and route.sni is not None:
            text = f"it is for tcp and auto listeners, and {listener.name} is neither; give host"
            yield Finding((*routes, number, "sni"), text, because)
        elif listener.protocol == "tcp" and route.sni is None:
            text = "a route of a tcp listener has a sni and a service: other rules are for HTTP"
            yield Finding((*routes, number), text, because)
    if listener.tls.enabled and any(route.sni is not None for route in listener.routes):
        text = f"TLS that ends at the listener ({listener.name}) is not routed by sni; give tls.enabled: false"
        yield Finding(routes, text, ((*here, "tls"), ("tls",)))
    if listener.protocol != "tcp" or listener.original_destination:
        return
    if not listener.routes and listener.target_service_name is None and listener.target_service_addr is None:
        because = tuple((*at, key) for at in (here, ()) for key in (*TARGETS, "protocol"))
        path = here or ("protocol",)
        yield Finding(path, "a tcp listener needs a target_service_name or a target_service_addr", because)


def _rate_limit(root: Root, index: int, listener: Listener) -> Iterator[Finding]:
    limit = listener.rate_limit
    if listener.protocol != "tcp" or limit.requests_per_second == 0:
        return
    because = tuple((*at, *key) for at in (_entry(root, index), ()) for key in (("protocol",), ("rate_limit",)))
    for key, wrong, text in (
        ("routes", bool(limit.routes), "no path; give routes: []"),
        ("key", limit.key.startswith("header:"), "no header fields; give key: route or key: client_ip"),
    ):
        if wrong:
            entry = root.listeners[index].rate_limit.model_fields_set if "listeners" in root.model_fields_set else ()
            path: KeyPath = ("listeners", index, "rate_limit", key) if key in entry else ("rate_limit", key)
            where = f" in rate_limit of the tcp listener {listener.name}"
            yield Finding(path, f"a TCP connection has {text}{where}", because)


def _methods(root: Root) -> Iterator[Finding]:
    places: list[tuple[KeyPath, Retry]] = [(("retry",), root.retry)]
    places += [(("services", name, "retry"), service.retry) for name, service in root.services.items()]
    for path, retry in places:
        if retry.methods == "any":
            text = "any is only allowed in retry of a route, as it lets a service see a POST twice"
            yield Finding((*path, "methods"), text)


def _pending(root: Root) -> Iterator[Finding]:
    """Waiting is only ever for an endpoint that has all the requests it may have."""
    cap = "max_requests_per_endpoint"
    shared: ServiceLimits = root.limits
    bounded = {
        name
        for name, service in root.services.items()
        if shared.overridden_by(service.limits).max_requests_per_endpoint is not None
    }
    places: list[tuple[KeyPath, ServiceLimits, bool]] = [
        (("limits",), shared, shared.max_requests_per_endpoint is not None or bool(bounded)),
        *((("services", name, "limits"), service.limits, name in bounded) for name, service in root.services.items()),
    ]
    for path, limits, used in places:
        for key in ("max_pending", "pending_timeout"):
            if not used and key in limits.model_fields_set and getattr(limits, key) is not None:
                because = ((*path, cap), ("limits", cap), ("services",))
                yield Finding((*path, key), f"it has no effect without {cap}", because)


def _concurrency(root: Root) -> Iterator[Finding]:
    """Each bound may be written in another place; it is the one written here, of the two, that is wrong."""
    shared: ServiceLimits = root.limits
    places: list[tuple[KeyPath, ServiceLimits, ServiceLimits]] = [(("limits",), shared, shared)]
    places += [
        (("services", name, "limits"), service.limits, shared.overridden_by(service.limits))
        for name, service in root.services.items()
    ]
    for path, written, limits in places:
        given, used = written.adaptive_concurrency.model_fields_set, limits.adaptive_concurrency
        if used.min_limit <= used.max_limit or not given.intersection(("min_limit", "max_limit")):
            continue
        here = (*path, "adaptive_concurrency")
        if "min_limit" in given:
            yield Finding((*here, "min_limit"), f"it is more than max_limit, {used.max_limit}", (here,))
        else:
            yield Finding((*here, "max_limit"), f"it is less than min_limit, {used.min_limit}", (here,))


def _collisions(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    names: dict[str | None, int] = {}
    for index, listener in enumerate(listeners):
        if listener.name in names:
            other: KeyPath = ("listeners", names[listener.name])
            yield Finding(("listeners", index, "name"), "the same name is given to", other=other)
        names.setdefault(listener.name, index)
        for first in range(index):
            if _overlap(listener.address, listeners[first].address):
                text = "the same address is listened on by"
                yield Finding(("listeners", index, "address"), text, other=("listeners", first))
                break


def _overlap(one: Address, other: Address) -> bool:
    if one.is_unix or other.is_unix:
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    hosts = {one.host.lower(), other.host.lower()}
    return len(hosts) == 1 or ("" in hosts and hosts <= {"", "::", "0.0.0.0"})  # noqa: S104 (compared, not bound)


def named_services(root: Root, listeners: tuple[Listener, ...]) -> list[tuple[str, KeyPath]]:
    """Every service that a route or a target names, with the key that names it, each place once."""
    found: dict[KeyPath, str] = {}
    for index, listener in enumerate(listeners):
        if listener.target_service_name is not None:
            found[origin(root, index, "target_service_name")] = listener.target_service_name
        for number, route in enumerate(listener.routes):
            here = (*origin(root, index, "routes"), number)
            if route.service is not None:
                found[(*here, "service")] = route.service
            found.update({(*here, "services", name): name for name in route.services})
    return [(name, path) for path, name in found.items()]


def static_names(root: Root) -> frozenset[str]:
    """Services whose addresses the configuration itself gives."""
    return frozenset(name for name, service in root.services.items() if "addresses" in service.model_fields_set)


def _services(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    for name in static_names(root):
        path: KeyPath = ("services", name, "addresses")
        if not root.services[name].addresses:
            yield Finding(path, "the list is empty; give at least one address", (path,))
    if not ("registry_file" in root.model_fields_set and root.registry_file is None):
        return
    known = static_names(root)
    for name, path in named_services(root, listeners):
        if name not in known:
            meant = nearest(name, known)
            hint = f" (did you mean {meant}?)" if meant else ""
            text = f"there is no service {name!r}{hint}; give it addresses under services, or give a registry_file"
            yield Finding(path, text, (("services", name), ("services",), ("registry_file",)))
