"""What the kernel is to bring to Charon, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HIGHEST_KEPT_PORT: Final = 32_767
"""The last port on which a program can see its clients' addresses: the kernel gives those above to clients, whose
packets the rule of routing leaves alone."""


@dataclass(frozen=True, slots=True)
class OutboundSpec:
    """Connections of this host's programs. Empty: any. Ports are numbers or ranges (``8000-8100``)."""

    listener: str
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    exclude_users: tuple[str, ...] = ()
    exclude_groups: tuple[str, ...] = ()
    exclude_ports: tuple[str, ...] = ()
    exclude_networks: tuple[str, ...] = ()
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class InboundSpec:
    """Connections to this host. ``networks`` are where they come from, empty: anywhere. ``transparent``: they are given
    to the listener as they are, not redirected. ``routing_table`` is for answers to clients whose address is kept; None
    where it is not."""

    listener: str
    ports: tuple[str, ...]
    networks: tuple[str, ...] = ()
    exclude_ports: tuple[str, ...] = ()
    exclude_networks: tuple[str, ...] = ()
    transparent: bool = False
    routing_table: int | None = None


@dataclass(frozen=True, slots=True)
class InterceptSpec:
    """The rules that are wanted. ``fail_open``: they end with Charon, or ``hold`` seconds after its last sign of life.
    ``mark`` is on all connections that Charon opens."""

    table: str
    mark: int
    fail_open: bool
    hold: float
    outbound: OutboundSpec | None = None
    inbound: InboundSpec | None = None

    @property
    def routing_table(self) -> int | None:
        """The routing table that is wanted, if any."""
        return None if self.inbound is None else self.inbound.routing_table
