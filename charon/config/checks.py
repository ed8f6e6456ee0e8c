"""Mistakes that no single key shows: what keys mean together. Pure; nothing here looks at the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from charon.base.addresses import Address, unix_path_problem
from charon.config.document import KeyPath
from charon.config.listeners import TARGETS
from charon.config.problems import nearest
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake at ``path``. It is not reported when something at or around ``because`` could not be read.

    ``other`` is the path that the text ends with, where it has to do with a second place.
    """

    path: KeyPath
    text: str
    because: tuple[KeyPath, ...] = ()
    other: KeyPath = ()


def findings(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    """Every mistake in a configuration whose values are all valid. ``listeners`` are the effective ones."""
    yield from _listener_list(root)
    for index, listener in enumerate(listeners):
        yield from _targets(root, index, listener)
    yield from _route_services(root)
    yield from _collisions(root, listeners)
    yield from _services(root, listeners)
    if root.admin.socket is not None and unix_path_problem(root.admin.socket):
        yield Finding(("admin", "socket"), unix_path_problem(root.admin.socket) or "")


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
    if listener.protocol != "tcp":
        return
    here = _entry(root, index)
    if listener.routes:
        text = "routes are for HTTP; a tcp listener has only a target_service_name or target_service_addr"
        yield Finding(origin(root, index, "routes"), text, ((*here, "protocol"), ("protocol",)))
    if listener.target_service_name is None and listener.target_service_addr is None:
        because = tuple((*at, key) for at in (here, ()) for key in (*TARGETS, "protocol"))
        path = here or ("protocol",)
        yield Finding(path, "a tcp listener needs a target_service_name or a target_service_addr", because)


def _route_services(root: Root) -> Iterator[Finding]:
    lists = [(("routes",), root.routes)] + [
        (("listeners", index, "routes"), listener.routes) for index, listener in enumerate(root.listeners)
    ]
    for path, routes in lists:
        for number, route in enumerate(routes):
            given = route.model_fields_set
            if route.service is None and not given.intersection(("redirect", "services")):
                here: KeyPath = (*path, number)
                yield Finding(here, "the route has no service", ((*here, "service"),))


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
            if route.service is not None:
                found[(*origin(root, index, "routes"), number, "service")] = route.service
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
