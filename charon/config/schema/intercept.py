"""Transparent interception: the kernel's rules that bring connections to Charon which were not meant for it."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final

from charon.base import addresses, units
from charon.base.units import quoted
from charon.config.schema.section import Section, block, setting
from charon.config.schema.values import Boolean, Choice, OptionalName, Whole, kind_of

DEFAULT_MARK: Final = 0x6368
DEFAULT_ROUTING_TABLE: Final = 0x6368
SHORTEST_HOLD: Final = 3.0

NOT_OUTBOUND: Final = (22, 53, 67, 68, 123, 546, 547)
"""ssh, DNS, DHCP and NTP: what a host must be able to do whatever happens to Charon."""

METADATA: Final = ("169.254.169.254", "fd00:ec2::254")
"""Where cloud machines ask who they are, at least once at each start."""


def _ports(value: Any) -> str:
    text = str(value).strip()
    first, dash, last = text.partition("-")
    try:
        low = addresses.parse_port(first)
        high = addresses.parse_port(last) if dash else low
    except ValueError:
        low, high = 1, 0
    if isinstance(value, bool) or low > high:
        raise ValueError(f"{quoted(value)} is not a port or a range of ports; write 80 or 8000-8100")
    return f"{low}-{high}" if low < high else str(low)


def _network(value: Any) -> str:
    text = str(value).strip()
    allowed = "write an address or a network such as 10.0.0.0/8"
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quoted(value)} is not a network; {allowed}") from None
    raise ValueError(f"{quoted(value)} has address bits to the right of its mask (did you mean {meant}?); {allowed}")


def _account(value: Any) -> str:
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[a-z_][a-z0-9_.-]{0,31}\$?|[0-9]{1,10}", text):
        raise ValueError(f"{quoted(value)} is not the name or the number of a user or a group")
    return text


def _cgroup(value: Any) -> str:
    text = str(value).strip().strip("/")
    if not re.fullmatch(r"[A-Za-z0-9_.:@\\-]+(?:/[A-Za-z0-9_.:@\\-]+)*", text) or len(text) > 200:
        raise ValueError(
            f"{quoted(value)} is not a cgroup; write its path below /sys/fs/cgroup: system.slice/app.service"
        )
    return text


def _hold(value: Any) -> float:
    seconds = units.parse_duration(value)
    if not SHORTEST_HOLD <= seconds <= 3600:
        raise ValueError(f"{quoted(value)} is not allowed; write {SHORTEST_HOLD:g}s or more, and at most an hour")
    return seconds


def _table(value: Any) -> str:
    text = str(value).strip()
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", text):
        raise ValueError(f"{quoted(value)} is not the name of a table; write letters, digits and _")
    return text


_STRING: Final = {"type": "string"}
_PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65535}
Ports = Annotated[str, *kind_of(_ports, "a port or a range of ports", _PORT, _STRING)]
IpNetwork = Annotated[str, *kind_of(_network, "a network", _STRING)]
Account = Annotated[str, *kind_of(_account, "a name or a number", _STRING, {"type": "integer", "minimum": 0})]
Cgroup = Annotated[str, *kind_of(_cgroup, "a cgroup", _STRING)]


class Outbound(Section):
    """Connections that programs on this host open. A connection is taken when it is of one of `users`, `groups` and
    `cgroups` (where none is given: of anybody), goes to one of `ports` and of `networks` (where none is given: to any),
    and nothing below excludes it. Charon's own are never taken: they bear `mark`, and its user is excluded, unless it
    is root. Only TCP is, and only connections that begin after the rules were put up."""

    listener: OptionalName = setting(
        "none",
        "Listener that gets them; it has `original_destination`. `none`: outgoing connections are left alone.",
        example="outbound",
    )
    users: tuple[Account, ...] = setting((), "Users whose connections are taken, by name or number.", example=["app"])
    groups: tuple[Account, ...] = setting((), "Groups likewise: the primary one of a process.", example=["apps"])
    cgroups: tuple[Cgroup, ...] = setting(
        (),
        "Control groups (version 2) likewise, with all below them, by their path under `/sys/fs/cgroup`; each must be "
        "there when the rules are put up.",
        example=["system.slice/app.service"],
    )
    ports: tuple[Ports, ...] = setting(
        (), "Ports, or ranges of them, to which connections are taken.", example=[80, "8000-8100"]
    )
    networks: tuple[IpNetwork, ...] = setting(
        (), "Networks and addresses to which connections are taken.", example=["10.0.0.0/8", "fd00::/8"]
    )
    exclude_users: tuple[Account, ...] = setting((), "Users whose connections are left alone.", example=["backup"])
    exclude_groups: tuple[Account, ...] = setting((), "Groups likewise.", example=["backup"])
    exclude_ports: tuple[Ports, ...] = setting(
        list(NOT_OUTBOUND),
        "Ports to which connections are left alone. The default is ssh, DNS, DHCP and NTP; a list given here takes its "
        "place.",
    )
    exclude_networks: tuple[IpNetwork, ...] = setting(
        list(METADATA),
        "Networks and addresses likewise. The default is where cloud machines find their metadata; a list given here "
        "takes its place.",
    )
    loopback: Boolean = setting(
        False, "Also take connections to this host's own addresses, but for those to Charon's listeners."
    )


class Inbound(Section):
    """Connections that come to this host."""

    listener: OptionalName = setting(
        "none",
        "Listener that gets them; it has `original_destination` and listens on all interfaces. `none`: incoming "
        "connections are left alone.",
        example="inbound",
    )
    ports: tuple[Ports, ...] = setting(
        (), "Ports, or ranges of them, to which connections are taken; at least one.", example=[8080]
    )
    mode: Annotated[str, *Choice("redirect", "tproxy")] = setting(
        "redirect",
        "How they are brought here. `redirect`: their address is translated (NAT), which the kernel's records of "
        "connections undo. `tproxy`: nothing in them is changed, no record is needed, and what another rule has "
        "translated to another host is left alone.",
    )
    keep_client_address: Boolean = setting(
        False,
        "Have the program see the client's address as that of its peer. Takes `mode: tproxy`, the program `ip`, and a "
        "program that listens on 127.0.0.1 and ::1, or on all addresses, on a port below 32768: a connection goes on "
        "to the port that was dialled there, or to a loopback address that a route or a target gives, and none is used "
        "for a second request. What goes to any other address comes from Charon's own, as ever.",
    )
    routing_table: Annotated[int, *Whole(256, 0x7FFFFFFF)] = setting(
        DEFAULT_ROUTING_TABLE,
        "With `keep_client_address`: number of the routing table by which the program's answers come back; another one "
        "for each Charon of a host.",
    )
    networks: tuple[IpNetwork, ...] = setting(
        (), "Networks and addresses that they come from. None given: any.", example=["10.0.0.0/8"]
    )
    exclude_ports: tuple[Ports, ...] = setting(
        [22], "Ports to which connections are left alone, though `ports` has them."
    )
    exclude_networks: tuple[IpNetwork, ...] = setting(
        (), "Networks and addresses from which connections are left alone.", example=["10.0.0.1"]
    )


class Intercept(Section):
    """Transparent interception, by one nftables table of Charon's own. It is put up when Charon serves, and taken away
    when it stops. That takes CAP_NET_ADMIN, and the program `nft`; without them Charon does not start."""

    enabled: Boolean = setting(False, "Bring connections here that are not meant for Charon.")
    outbound: Outbound = block(Outbound, "Connections that programs on this host open.")
    inbound: Inbound = block(Inbound, "Connections that come to this host.")
    on_stop: Annotated[str, *Choice("open", "closed")] = setting(
        "open",
        "What becomes of connections when Charon is not there. `open`: the rules go when it stops, and where it cannot "
        "take them away (killed, stuck, out of memory), the kernel drops them after `hold`: connections then go where "
        "they went before. `closed`: the rules stay, and connections are refused, until `charon intercept down`; what "
        "the rules exclude is reachable all the time.",
    )
    hold: Annotated[
        float, *kind_of(_hold, "a duration", {"type": "number", "minimum": SHORTEST_HOLD}, {"type": "string"})
    ] = setting(
        "10s",
        "How long the rules stay in force without a sign of life of Charon, which gives three in that time as long as "
        "any of its workers serves. Only with `on_stop: open`.",
    )
    mark: Annotated[int, *Whole(1, 0x7FFFFFFF)] = setting(
        DEFAULT_MARK, "Mark (SO_MARK) on all connections that Charon opens, by which the rules know them."
    )
    table: Annotated[str, *kind_of(_table, "the name of a table", _STRING)] = setting(
        "charon", "Name of the nftables table (family `inet`); another one for each Charon of a host."
    )
