"""Mistakes in `tls` and `access` that no single key of them shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from charon.config.certificates import MaterialSource
from charon.config.compile_tls import client_source, makes_authority, mesh_is_used, path, server_source, uses_mesh
from charon.config.document import KeyPath
from charon.config.finding import Finding
from charon.config.registry import MIXED_SCHEMES
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root
from charon.config.schema.tls import Access, ServiceTls, Tls

FILES = ("cert_file", "key_file", "ca_file", "crl_file")


def tls_findings(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    """Every mistake that the keys show together. Pure."""
    yield from _server_port(root)
    for index, listener in enumerate(listeners):
        yield from _listener(root, index, listener)
    yield from _trust_of_upstreams(root, listeners)
    for name, service in root.services.items():
        here: KeyPath = ("services", name, "tls")
        yield from _pair(service.tls, partial(_below, here))
        schemes = {upstream.scheme == "https" for upstream in service.addresses}
        if len(schemes) > 1:
            yield Finding(("services", name, "addresses"), MIXED_SCHEMES)
    yield from _routes(root, listeners)


def origin(root: Root, index: int | None, *keys: str) -> KeyPath:
    """Where the effective value of a key of a listener's block is written: in its entry, or at the top level."""
    if index is not None and "listeners" in root.model_fields_set:
        block = getattr(root.listeners[index], keys[0])
        if keys[0] in root.listeners[index].model_fields_set and (len(keys) == 1 or keys[1] in block.model_fields_set):
            return ("listeners", index, *keys)
    return keys


def _server_port(root: Root) -> Iterator[Finding]:
    if "listeners" in root.model_fields_set and "server_port" in root.tls.model_fields_set and root.tls.enabled:
        yield Finding(("tls", "server_port"), "not used together with listeners; give the port an entry there")


def _listener(root: Root, index: int, listener: Listener) -> Iterator[Finding]:
    tls = listener.tls

    def at(key: str) -> KeyPath:
        return origin(root, index, "tls", key)

    if not tls.enabled:
        if tls.allowed_identities:
            yield Finding(at("allowed_identities"), *_nobody(listener, "tls is not enabled there"))
        elif listener.access.allow or listener.access.deny:
            yield Finding(origin(root, index, "access"), *_nobody(listener, "tls is not enabled there"))
        return
    yield from _pair(tls, at)
    if tls.client_auth == "none":
        for key in ("allowed_identities", "ca_file", "crl_file"):
            if getattr(tls, key):
                text = f"it has no effect with client_auth: none (listener {listener.name})"
                yield Finding(at(key), text, (at("client_auth"),))
        if listener.access.allow or listener.access.deny:
            yield Finding(origin(root, index, "access"), *_nobody(listener, "client_auth is none there"))
    elif tls.cert_file is not None and tls.ca_file is None:
        text = "clients' certificates need something to be checked against; give ca_file, or client_auth: none"
        yield Finding(at("cert_file"), text, (at("ca_file"), at("client_auth")))


def _nobody(listener: Listener, why: str) -> tuple[str, tuple[KeyPath, ...]]:
    return f"no client of the listener {listener.name} has an identity: {why}", (("tls",), ("listeners",))


def _pair(tls: Tls | ServiceTls, at: Callable[[str], KeyPath]) -> Iterator[Finding]:
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if getattr(tls, one) is not None and getattr(tls, other) is None:
            yield Finding(at(one), f"it needs a {other}", (at(other),))


def _trust_of_upstreams(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    tls = root.tls
    if not mesh_is_used(root) or tls.ca_file is not None:
        return
    key = _user_of_mesh(root)
    because: tuple[KeyPath, ...] = (("tls", "ca_file"), ("tls", "cert_dir"), ("tls", "enabled"), ("listeners",))
    if tls.cert_file is not None:
        yield Finding(key, "there is nothing to trust endpoints by; give tls.ca_file", because)
    elif "cert_dir" not in tls.model_fields_set and not any(
        makes_authority(listener.tls) and listener.tls.cert_dir == tls.cert_dir for listener in listeners
    ):
        text = "there is nothing to trust endpoints by; give tls.cert_dir or tls.ca_file, or tls.enabled: true"
        yield Finding(key, text, because)


def _routes(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    """`access` of a route on listeners none of which can tell who a client is."""
    useful: set[KeyPath] = set()
    useless: dict[KeyPath, Access] = {}
    for index, listener in enumerate(listeners):
        start = origin(root, index, "routes")
        for number, route in enumerate(listener.routes):
            where: KeyPath = (*start, number, "access")
            if listener.tls.enabled and listener.tls.client_auth != "none":
                useful.add(where)
            elif route.access.allow or route.access.deny:
                useless[where] = route.access
    for where in useless:
        if where not in useful:
            text = "no client of this route has an identity: no listener of it has tls with client_auth"
            yield Finding(where, text, (("tls",), ("listeners",)))


def source_findings(root: Root, listeners: tuple[Listener, ...], folder: Path) -> Iterator[Finding]:
    """Files that are named and not there, and certificates of which two different ones would have to be in one file."""
    written: dict[str | None, MaterialSource] = {}
    for index, listener in enumerate(listeners):
        if not listener.tls.enabled:
            continue
        source = server_source(listener, folder)
        before = written.setdefault(source.cert_file, source)
        if source.plan is not None and before.plan != source.plan:
            text = f"{source.cert_file} would have to be two certificates; give tls.service, or one of them a cert_dir"
            yield Finding(origin(root, index, "tls", "cert_dir"), text)
        yield from _missing(listener.tls, folder, partial(origin, root, index, "tls"))
    if mesh_is_used(root):
        yield from _missing(root.tls, folder, partial(_below, ("tls",)))
        source = client_source(root, listeners, folder)
        made = source.plan is not None and source.plan.make_authority
        given = root.tls.ca_file is None and source.ca_file is not None and "cert_dir" in root.tls.model_fields_set
        if given and not made and not Path(source.ca_file or "").exists():
            text = f"there is nothing to trust endpoints by: there is no {source.ca_file}; see charon certs init"
            yield Finding(_user_of_mesh(root), text)
    for name, service in root.services.items():
        yield from _missing(service.tls, folder, partial(_below, ("services", name, "tls")))


def _user_of_mesh(root: Root) -> KeyPath:
    """The key because of which endpoints are trusted as `tls` at the top level says."""
    if root.tls.upstream_tls:
        return ("tls", "upstream_tls")
    return ("services", next(name for name, service in root.services.items() if uses_mesh(service)), "tls")


def _below(path: KeyPath, key: str) -> KeyPath:
    return (*path, key)


def _missing(tls: Tls | ServiceTls, folder: Path, at: Callable[[str], KeyPath]) -> Iterator[Finding]:
    for key in FILES:
        file = path(folder, getattr(tls, key))
        if file is not None and not Path(file).exists():
            yield Finding(at(key), f"there is no such file: {file}")
