"""Mistakes in what has to do with interception that no single key shows."""

from __future__ import annotations

from collections.abc import Iterator

from charon.config.document import KeyPath
from charon.config.finding import Finding
from charon.config.problems import nearest
from charon.config.schema.listener import SERVER_FIRST, Listener
from charon.config.schema.root import Root

_ANY = frozenset({"", "::", "0.0.0.0"})  # noqa: S104 (compared, not bound)
_LOOPBACK = frozenset({"127.0.0.1", "::1"})


def intercept_findings(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    """Every such mistake. ``listeners`` are the effective ones. Pure."""
    for index, listener in enumerate(listeners):
        yield from _listener(index, listener)
    if root.intercept.enabled:
        yield from _rules(root, listeners)


def _listener(index: int, listener: Listener) -> Iterator[Finding]:
    here: KeyPath = ("listeners", index)
    because = ((*here, "original_destination"), (*here, "protocol"), ("protocol",))
    given = listener.model_fields_set
    if listener.original_destination and listener.address.is_unix:
        text = "connections to a Unix socket had no other destination; give an address with a port"
        yield Finding((*here, "original_destination"), text, ((*here, "address"),))
    own_ports = "opaque_ports" in given and listener.opaque_ports != tuple(map(str, SERVER_FIRST))
    if not listener.original_destination:
        for key, wrong in (("passthrough", listener.passthrough == "deny"), ("opaque_ports", own_ports)):
            if wrong:
                yield Finding((*here, key), "it has no effect without original_destination: true", because)
    elif own_ports and listener.protocol != "auto":
        yield Finding((*here, "opaque_ports"), "it has no effect without protocol: auto", because)


def _rules(root: Root, listeners: tuple[Listener, ...]) -> Iterator[Finding]:
    outbound, inbound = root.intercept.outbound.listener, root.intercept.inbound.listener
    if outbound is None and inbound is None:
        text = "there is nothing to bring here; give outbound.listener or inbound.listener"
        yield Finding(("intercept", "enabled"), text, (("intercept",),))
    known = {listener.name: (index, listener) for index, listener in enumerate(listeners) if listener.name is not None}
    for direction, name in (("outbound", outbound), ("inbound", inbound)):
        path: KeyPath = ("intercept", direction, "listener")
        if name is None:
            continue
        if name not in known:
            meant = nearest(name, known)
            hint = f" (did you mean {meant}?)" if meant else ""
            text = f"there is no listener {name!r}{hint}; give one of that name in listeners"
            yield Finding(path, text, (("listeners",),))
            continue
        index, listener = known[name]
        here: KeyPath = ("listeners", index)
        because = (here, ("intercept",))
        if not listener.original_destination:
            yield Finding(path, f"the listener {name} has no original_destination: true", because)
        hosts = _ANY | _LOOPBACK if direction == "outbound" else _ANY
        if not listener.address.is_unix and listener.address.host not in hosts:
            where = "all interfaces" + (" or on 127.0.0.1" if direction == "outbound" else "")
            yield Finding(path, f"the listener {name} must listen on {where}", because)
    if inbound is not None and not root.intercept.inbound.ports:
        path = ("intercept", "inbound", "ports")
        yield Finding(path, "give the ports to which connections are taken", (("intercept", "inbound"),))
    yield from _kept_addresses(root)
    if outbound is not None and outbound == inbound:
        path = ("intercept", "inbound", "listener")
        yield Finding(path, "outbound has the same listener; each direction has its own", (("intercept",),))
    if outbound in known and known[outbound][1].tls.enabled:
        text = f"the listener {outbound} speaks TLS, of which the programs know nothing; give tls.enabled: false there"
        yield Finding(("intercept", "outbound", "listener"), text, (("listeners",), ("tls",)))


def _kept_addresses(root: Root) -> Iterator[Finding]:
    here: KeyPath = ("intercept", "inbound")
    inbound = root.intercept.inbound
    if inbound.keep_client_address and inbound.mode != "tproxy":
        yield Finding((*here, "keep_client_address"), "it has no effect without mode: tproxy", (here,))
    if "routing_table" in inbound.model_fields_set and not inbound.keep_client_address:
        yield Finding((*here, "routing_table"), "it has no effect without keep_client_address: true", (here,))
