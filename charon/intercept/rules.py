"""The nftables table of interception, as text for ``nft -f``. Pure, but for looking up users and groups.

One table of Charon's own, replaced as a whole in one transaction, so that there is no moment with half of it. Its two
chains see only the first packet of a connection (they are of type nat), and leave all that they do not redirect as it
is: they accept nothing, drop nothing and change no other table.

Where the mode is ``tproxy`` the inbound chain is a filter that gives packets to a socket. It sees all packets, as the
one that opens a connection need not be the first (SYN cookies). One that belongs to somebody else's connection does not
match: the kernel looks for an established socket first, and takes only a transparent one. Where nobody listens nothing
matches either, so that these rules fail open at once.

**Why a host cannot be locked out.** Where the rules are to fail open, each redirect asks for an element of the set
``alive``, which the kernel removes after ``hold`` seconds unless Charon puts it there anew. However Charon comes to its
end, the rules then match nothing any more.

**Why a table goes in two steps.** What has been redirected goes on being translated only as long as the kernel has a
chain of type nat and a rule that needs its records of connections. So a table is first left without redirects
(:func:`quiet`), and removed when the connections have ended.

Every rule has a comment with a digest of all of them and its number, by which a later look knows whether what is in the
kernel is what was put there (:func:`difference`).
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from typing import Final

from charon.base.errors import StartError
from charon.config.interception import InboundSpec, InterceptSpec, OutboundSpec

BEFORE_OTHERS: Final = -101
"""The priority of both chains: one before where destination NAT is usually done, so that ours is asked first."""

AFTER_OTHERS: Final = -99
"""The priority of the chain of TPROXY: a packet that has a socket and is translated to another host would be dropped,
so it is looked at when destination NAT is done."""

_FIRST: Final = "tcp flags & (fin | syn | rst | ack)"
_ALIVE: Final = "meta l4proto @alive "
_QUIET: Final = 'comment "charon:quiet"'
_COMMENT: Final = re.compile(r'comment "charon:([0-9a-f]{12}):([0-9]+)"')


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rules lead: listening addresses (``host:port``, as bound) by the name of their listener; and the user
    that Charon runs as (0: root, whose connections are known by their mark alone)."""

    addresses: Mapping[str, str]
    uid: int = 0

    def port(self, listener: str) -> int:
        """Raises StartError for a listener that has none yet."""
        port = int(self.addresses[listener].rpartition(":")[2])
        if port == 0:
            raise StartError(f"intercept: the listener {listener} has any free port; give it one of its own")
        return port

    def families(self, listener: str) -> tuple[str, ...]:
        """The address families in which a listener is reached."""
        host = _host(self.addresses[listener])
        if host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - compared, not bound
            return ("ipv4",)
        return ("ipv6",) if host == "::1" else ("ipv4", "ipv6")

    def own_ports(self, *, from_outside: bool) -> list[str]:
        """Ports that Charon listens on; ``from_outside``: but for those of loopback addresses alone."""
        found = {
            int(address.rpartition(":")[2])
            for address in self.addresses.values()
            if not address.startswith("unix:")
            and not (from_outside and _host(address) != "" and ip_address(_host(address)).is_loopback)
        }
        return [str(port) for port in sorted(found) if port]


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def table(spec: InterceptSpec, place: Place, *, alive: bool = True) -> str:
    """The whole table, to be loaded in place of an earlier one; ``alive``: with a first sign of life in it. Raises
    StartError for an unknown user or group."""
    chains: list[tuple[str, str, list[str]]] = []
    if spec.outbound is not None:
        chains.append(("outbound", _chain("output"), list(_outbound(spec, spec.outbound, place))))
    if spec.inbound is not None:
        kind = _FILTER if spec.inbound.transparent else _chain("prerouting")
        chains.append(("inbound", kind, list(_inbound(spec, spec.inbound, place))))
    digest = _digest(spec, chains)
    lines = _beginning(spec)
    if spec.fail_open:
        lines += ["\tset alive {", "\t\ttype inet_proto", "\t\tflags timeout"]
        if alive:
            lines.append(f"\t\telements = {{ tcp timeout {_seconds(spec)} }}")
        lines.append("\t}")
    number = 0
    for name, kind, rules in chains:
        lines += [f"\tchain {name} {{", f"\t\t{kind}"]
        for rule in rules:
            lines.append(f'\t\t{rule} comment "charon:{digest}:{number}"')
            number += 1
        lines.append("\t}")
    return "\n".join([*lines, "}", ""])


def quiet(spec: InterceptSpec) -> str:
    """The table without a redirect: nothing is taken any more, what has been taken goes on."""
    lines = _beginning(spec)
    for name, hook in (("outbound", "output"), ("inbound", "prerouting")):
        # It matches nothing, as these chains see first packets only; it is there to need the records.
        rule = f"ct state established return {_QUIET}"
        lines += [f"\tchain {name} {{", f"\t\t{_chain(hook)}", f"\t\t{rule}", "\t}"]
    return "\n".join([*lines, "}", ""])


def is_quiet(listed: str) -> bool:
    """Whether a listing of the table has no rule that does anything."""
    return all(_QUIET in line for line in listed.splitlines() if _is_rule(line))


def _beginning(spec: InterceptSpec) -> list[str]:
    # In one transaction: the chains that go away are gone only when those that come are there.
    return [f"add table inet {spec.table}", f"delete table inet {spec.table}", f"table inet {spec.table} {{"]


def _chain(hook: str) -> str:
    return f"type nat hook {hook} priority {BEFORE_OTHERS}; policy accept;"


_FILTER: Final = f"type filter hook prerouting priority {AFTER_OTHERS}; policy accept;"


def sign_of_life(spec: InterceptSpec) -> str:
    """What keeps the rules in force for another ``hold`` seconds, whether they still were or not."""
    element = f"element inet {spec.table} alive {{ tcp"
    add = f"add {element} timeout {_seconds(spec)} }}"
    return f"{add}\ndelete {element} }}\n{add}\n"


def difference(wanted: str, listed: str | None) -> str | None:
    """How a table differs from the one that is ``wanted`` as text; ``listed`` is what the kernel shows of it. None
    when it does not."""
    if listed is None:
        return "the table is not there"
    mine, theirs = _COMMENT.findall(wanted), _COMMENT.findall(listed)
    if mine != theirs:
        if {digest for digest, _ in mine} != {digest for digest, _ in theirs} and theirs:
            return "the rules are others: those of another configuration, or of another Charon"
        return f"{len(theirs)} of {len(mine)} rules are there"
    foreign = [line.strip() for line in listed.splitlines() if _is_rule(line) and not _COMMENT.search(line)]
    if foreign:
        return f"there is a rule that is not Charon's: {foreign[0][:100]}"
    return None


def in_force(listed: str) -> bool:
    """Whether the rules in a listing of the table redirect anything now: they were kept alive, or need not be."""
    # nft writes the protocol's number where there is no /etc/protocols.
    return "set alive" not in listed or re.search(r"elements = \{ (?:tcp|6) ", listed) is not None


def _is_rule(line: str) -> bool:
    """Whether a line of a listing is a rule, which stands two steps deep and says what happens."""
    return line.startswith("\t\t") and not re.match(r"\t+(?:type|flags|elements|timeout|size|policy|\})\b", line)


def _digest(spec: InterceptSpec, chains: list[tuple[str, str, list[str]]]) -> str:
    return blake2b(repr((spec.table, spec.fail_open, spec.hold, chains)).encode(), digest_size=6).hexdigest()


def _seconds(spec: InterceptSpec) -> str:
    return f"{max(1, round(spec.hold))}s"


def _outbound(spec: InterceptSpec, wanted: OutboundSpec, place: Place) -> Iterator[str]:
    yield from _first_packets()
    yield f"meta mark {spec.mark} return"
    left_alone = [*_accounts(wanted.exclude_users, _uid), *([str(place.uid)] if place.uid else [])]
    if left_alone:
        yield f"meta skuid {_set(left_alone)} return"
    if wanted.exclude_groups:
        yield f"meta skgid {_set(_accounts(wanted.exclude_groups, _gid))} return"
    if wanted.loopback:
        yield f"fib daddr type local tcp dport {_set(place.own_ports(from_outside=False))} return"
    else:
        yield "fib daddr type local return"
    yield from _excluded("daddr", wanted.exclude_networks, wanted.exclude_ports)
    yield from _only("daddr", wanted.networks, place.families(wanted.listener))
    if wanted.ports:
        yield f"tcp dport != {_set(wanted.ports)} return"
    redirect = _redirect(spec, place.port(wanted.listener))
    if not (wanted.users or wanted.groups or wanted.cgroups):
        yield redirect
    if wanted.users:
        yield f"meta skuid {_set(_accounts(wanted.users, _uid))} {redirect}"
    if wanted.groups:
        yield f"meta skgid {_set(_accounts(wanted.groups, _gid))} {redirect}"
    for path in wanted.cgroups:
        yield f'socket cgroupv2 level {path.count("/") + 1} "{path}" {redirect}'


def _inbound(spec: InterceptSpec, wanted: InboundSpec, place: Place) -> Iterator[str]:
    if wanted.transparent:
        yield "meta l4proto != tcp return"
    else:
        yield from _first_packets()
    yield 'iif "lo" return'  # this host's own connections to itself, Charon's to its programs among them
    yield "fib daddr type != local return"  # what is only forwarded here, to containers for instance
    yield f"tcp dport {_set(place.own_ports(from_outside=True))} return"
    yield from _excluded("saddr", wanted.exclude_networks, wanted.exclude_ports)
    yield from _only("saddr", wanted.networks, place.families(wanted.listener))
    ports = f"tcp dport {_set(wanted.ports)}"
    if not wanted.transparent:
        yield f"{ports} {_redirect(spec, place.port(wanted.listener))}"
        return
    yield f"{ports} {_ALIVE if spec.fail_open else ''}meta l4proto tcp tproxy to :{place.port(wanted.listener)} accept"
    if not spec.fail_open:
        yield f"{ports} {_FIRST} == syn reject with tcp reset"  # nobody listens: it is not for the program


def _first_packets() -> Iterator[str]:
    yield "meta l4proto != tcp return"
    # A connection from before the rules, of which the kernel keeps no record yet, looks new in the middle of it.
    yield f"{_FIRST} != syn return"


def _excluded(address: str, networks: Sequence[str], ports: Sequence[str]) -> Iterator[str]:
    for family, chosen in _by_family(networks).items():
        if chosen:
            yield f"{family} {address} {_set(chosen)} return"
    if ports:
        yield f"tcp dport {_set(ports)} return"


def _only(address: str, networks: Sequence[str], reachable: Sequence[str]) -> Iterator[str]:
    """Nothing but ``networks``, where there are any, and nothing that the listener cannot be reached by."""
    for family, chosen in _by_family(networks).items():
        protocol = "ipv4" if family == "ip" else "ipv6"
        if protocol not in reachable or (networks and not chosen):
            yield f"meta nfproto {protocol} return"
        elif chosen:
            yield f"{family} {address} != {_set(chosen)} return"


def _by_family(networks: Iterable[str]) -> dict[str, list[str]]:
    """Networks without those that are inside others, which nft takes for a mistake."""
    four = collapse_addresses(IPv4Network(network) for network in networks if ":" not in network)
    six = collapse_addresses(IPv6Network(network) for network in networks if ":" in network)
    return {"ip": [str(network) for network in four], "ip6": [str(network) for network in six]}


def _redirect(spec: InterceptSpec, port: int) -> str:
    return f"{_ALIVE if spec.fail_open else ''}meta l4proto tcp redirect to :{port}"


def _set(members: Iterable[str]) -> str:
    return "{ " + ", ".join(_disjoint(list(members))) + " }"


def _disjoint(members: list[str]) -> list[str]:
    """Each member once; ports and ranges of them joined where they overlap, which nft takes for a mistake."""
    if not all(re.fullmatch(r"[0-9]+(?:-[0-9]+)?", member) for member in members):
        return list(dict.fromkeys(members))
    ranges = sorted(
        (int(first), int(last or first)) for first, _, last in (member.partition("-") for member in members)
    )
    joined = [ranges[0]]
    for first, last in ranges[1:]:
        if first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return [str(first) if first == last else f"{first}-{last}" for first, last in joined]


def _accounts(names: Iterable[str], number: Callable[[str], int]) -> list[str]:
    return [name if name.isdigit() else str(number(name)) for name in names]


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise StartError(f"intercept.outbound: there is no user {name}") from None


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"intercept.outbound: there is no group {name}") from None
