"""The listeners that a configuration comes to: overrides merged, names given."""

from __future__ import annotations

from charon.base.addresses import Address
from charon.config.schema.listener import Listener, Traffic
from charon.config.schema.root import Root

TARGETS = ("target_service_name", "target_service_addr")


def effective_listeners(root: Root) -> tuple[Listener, ...]:
    """Every listener with everything it inherits from the top level, and with a name."""
    base = Listener.model_construct(
        name=None,
        address=Address("", root.tls.server_port if root.tls.enabled else root.listen_port),
        access_log=root.logging.access_log,
        **{key: getattr(root, key) for key in Traffic.model_fields},
    )
    if "listeners" not in root.model_fields_set:
        return _named([base])
    return _named([_merged(base, given) for given in root.listeners])


def _merged(base: Listener, given: Listener) -> Listener:
    merged = base.overridden_by(given)
    changes: dict[str, object] = {}
    if given.model_fields_set.intersection(TARGETS):
        # One of them says where to go: the other, inherited, must not win over it.
        changes = {key: getattr(given, key) for key in TARGETS}
    if merged.protocol == "tcp" and "routes" not in given.model_fields_set:
        changes["routes"] = ()
    return merged.model_copy(update=changes)


def _named(listeners: list[Listener]) -> tuple[Listener, ...]:
    taken = {listener.name for listener in listeners if listener.name is not None}
    named = []
    for listener in listeners:
        if listener.name is None:
            name = _default_name(listener, taken)
            taken.add(name)
            listener = listener.model_copy(update={"name": name})
        named.append(listener)
    return tuple(named)


def _default_name(listener: Listener, taken: set[str]) -> str:
    address = listener.address
    end = address.host.rpartition("/")[2] if address.is_unix else str(address.port)
    short, long = f"{listener.protocol}-{end}", f"{listener.protocol}-{address}"
    for name in (short, long):
        if name not in taken:
            return name
    number = 2
    while f"{short}-{number}" in taken:
        number += 1
    return f"{short}-{number}"
