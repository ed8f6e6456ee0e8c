"""The rules of interception as plain values, and what listeners have to do with them."""

from __future__ import annotations

from charon.config.interception import InboundSpec, InterceptSpec, OutboundSpec
from charon.config.schema.intercept import Inbound, Outbound
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root


def intercept_spec(root: Root) -> InterceptSpec | None:
    """The rules that are wanted; None where interception is off."""
    given = root.intercept
    if not given.enabled:
        return None
    return InterceptSpec(
        table=given.table,
        mark=given.mark,
        fail_open=given.on_stop == "open",
        hold=given.hold,
        outbound=_outbound(given.outbound),
        inbound=_inbound(given.inbound),
    )


def direction(root: Root, listener: Listener) -> str | None:
    """``inbound`` or ``outbound`` for a listener of redirected connections; None for any other."""
    if not listener.original_destination:
        return None
    return "inbound" if listener.name is not None and listener.name == root.intercept.inbound.listener else "outbound"


def transparent(root: Root, listener: Listener) -> bool:
    """Whether the kernel gives connections to the listener that were made to other addresses."""
    inbound = root.intercept.inbound
    return root.intercept.enabled and inbound.mode == "tproxy" and direction(root, listener) == "inbound"


def keeps_client(root: Root, listener: Listener) -> bool:
    """Whether programs on this host see the listener's clients as their peers."""
    return transparent(root, listener) and root.intercept.inbound.keep_client_address


def opaque_ports(listener: Listener) -> tuple[tuple[int, int], ...]:
    """The ranges of destination ports at which nobody looks at the first bytes."""
    if listener.protocol != "auto" or not listener.original_destination:
        return ()
    ranges = (str(text).partition("-") for text in listener.opaque_ports)
    return tuple(sorted((int(first), int(last or first)) for first, _, last in ranges))


def _outbound(given: Outbound) -> OutboundSpec | None:
    if given.listener is None:
        return None
    return OutboundSpec(
        listener=given.listener,
        users=given.users,
        groups=given.groups,
        cgroups=given.cgroups,
        ports=given.ports,
        networks=given.networks,
        exclude_users=given.exclude_users,
        exclude_groups=given.exclude_groups,
        exclude_ports=given.exclude_ports,
        exclude_networks=given.exclude_networks,
        loopback=given.loopback,
    )


def _inbound(given: Inbound) -> InboundSpec | None:
    if given.listener is None:
        return None
    return InboundSpec(
        listener=given.listener,
        ports=given.ports,
        networks=given.networks,
        exclude_ports=given.exclude_ports,
        exclude_networks=given.exclude_networks,
        transparent=given.mode == "tproxy",
        routing_table=given.routing_table if given.keep_client_address else None,
    )
