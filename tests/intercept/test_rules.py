"""The text of the rules: what it says, that nft takes it, and that the kernel's listing of it is known again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from charon.base.errors import StartError
from charon.config.interception import InboundSpec, InterceptSpec, OutboundSpec
from charon.intercept import kernel, rules
from tests.harness.namespaces import Host, need_interception, two_hosts

PLACE = rules.Place({"out": "127.0.0.1:15001", "in": "[::]:15006", "more": "[::]:8080", "local": "unix:/x"}, uid=999)
OUT = OutboundSpec("out", exclude_ports=("22", "53"), exclude_networks=("169.254.169.254/32", "fd00:ec2::254/128"))
BOTH = InterceptSpec("charon", 0x6368, True, 10.0, OUT, InboundSpec("in", ("8080", "80-90", "85-100"), (), ("22",)))
EVERYTHING = InterceptSpec(
    "second",
    1,
    False,
    10.0,
    OutboundSpec(
        "in",
        users=("root", "1000"),
        groups=("root", "7"),
        ports=("1-65535",),
        networks=("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "fd00::/8"),
        exclude_users=("5",),
        exclude_groups=("6",),
        exclude_networks=("192.0.2.0/24", "192.0.2.7/32"),
        loopback=True,
    ),
    InboundSpec("in", ("1-65535",), ("10.0.0.0/8",), ("22",), ("10.1.2.3/32", "::1/128")),
)
TPROXY = replace(BOTH, inbound=InboundSpec("in", ("8080",), ("10.0.0.0/8",), ("22",), (), True, 300))
MANY = replace(BOTH, outbound=replace(OUT, exclude_ports=tuple(str(port) for port in range(1, 3000, 2))))
CLOSED = replace(TPROXY, fail_open=False)


def lines(spec: InterceptSpec, place: rules.Place = PLACE) -> list[str]:
    """The rules alone, without their comments."""
    return [
        line.partition(" comment ")[0].strip() for line in rules.table(spec, place).splitlines() if "comment" in line
    ]


def test_what_they_say() -> None:
    assert lines(BOTH) == [
        "meta l4proto != tcp return",
        "tcp flags & (fin | syn | rst | ack) != syn return",
        "meta mark 25448 return",
        "meta skuid { 999 } return",
        "fib daddr type local return",
        "ip daddr { 169.254.169.254/32 } return",
        "ip6 daddr { fd00:ec2::254/128 } return",
        "tcp dport { 22, 53 } return",
        "meta nfproto ipv6 return",  # its listener cannot be reached so
        "meta l4proto @alive meta l4proto tcp redirect to :15001",
        "meta l4proto != tcp return",
        "tcp flags & (fin | syn | rst | ack) != syn return",
        'iif "lo" return',
        "fib daddr type != local return",
        "tcp dport { 8080, 15006 } return",
        "tcp dport { 22 } return",
        "tcp dport { 80-100, 8080 } meta l4proto @alive meta l4proto tcp redirect to :15006",
    ]


def test_root_is_known_by_its_mark_alone() -> None:
    assert not [line for line in lines(BOTH, replace(PLACE, uid=0)) if "skuid" in line]


def test_rules_that_fail_closed_need_no_sign_of_life() -> None:
    text = rules.table(replace(BOTH, fail_open=False), PLACE)
    assert "alive" not in text and text.count("redirect to") == 2
    assert rules.in_force(text)


def test_tproxy_sees_every_packet_and_gives_it_to_the_listener() -> None:
    start = rules.table(TPROXY, PLACE).index("chain inbound")
    assert "type filter hook prerouting priority -99; policy accept;" in rules.table(TPROXY, PLACE)[start:]
    inbound = lines(replace(TPROXY, outbound=None))
    assert inbound == [
        "meta l4proto != tcp return",
        'iif "lo" return',
        "fib daddr type != local return",
        "tcp dport { 8080, 15006 } return",
        "tcp dport { 22 } return",
        "ip saddr != { 10.0.0.0/8 } return",
        "meta nfproto ipv6 return",
        "tcp dport { 8080 } meta l4proto @alive meta l4proto tcp tproxy to :15006 accept",
    ]
    assert lines(replace(TPROXY, outbound=None, fail_open=False))[-2:] == [
        "tcp dport { 8080 } meta l4proto tcp tproxy to :15006 accept",
        "tcp dport { 8080 } tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset",
    ]


def test_every_kind_of_restriction() -> None:
    found = lines(EVERYTHING)
    assert "fib daddr type local tcp dport { 8080, 15001, 15006 } return" in found
    assert "ip daddr != { 0.0.0.0/0 } return" in found and "ip6 daddr != { fd00::/8 } return" in found
    assert "ip daddr { 192.0.2.0/24 } return" in found
    assert found.count("meta skuid { 0, 1000 } meta l4proto tcp redirect to :15006") == 1
    assert found.count("meta skgid { 0, 7 } meta l4proto tcp redirect to :15006") == 1
    cgroup = replace(EVERYTHING, outbound=OutboundSpec("in", cgroups=("system.slice/app.service",)))
    assert any(line.startswith('socket cgroupv2 level 2 "system.slice/app.service" meta') for line in lines(cgroup))


def test_what_cannot_be() -> None:
    with pytest.raises(StartError, match="there is no user nobody-knows"):
        rules.table(replace(BOTH, outbound=OutboundSpec("out", users=("nobody-knows",))), PLACE)
    with pytest.raises(StartError, match="there is no group nobody-knows"):
        rules.table(replace(BOTH, outbound=OutboundSpec("out", groups=("nobody-knows",))), PLACE)
    with pytest.raises(StartError, match="the listener out has any free port"):
        rules.table(BOTH, rules.Place({"out": "[::]:0", "in": "[::]:1"}))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    need_interception()
    with two_hosts() as (host, _):
        yield host


@pytest.mark.parametrize("spec", [BOTH, EVERYTHING, TPROXY, CLOSED, MANY])
def test_the_kernel_takes_them_and_shows_them_again(host: Host, spec: InterceptSpec) -> None:
    wanted = rules.table(spec, PLACE)
    with host.inside():
        assert rules.difference(wanted, kernel.listing(spec.table)) == "the table is not there"
        kernel.load(wanted)
        kernel.load(wanted)  # again is no matter
        listed = kernel.listing(spec.table)
        assert listed is not None
        assert rules.difference(wanted, listed) is None
        assert rules.in_force(listed) and not rules.is_quiet(listed)
        assert rules.in_force(listed.replace("elements = { tcp ", "elements = { 6 "))  # without /etc/protocols
        other = rules.table(replace(spec, hold=20.0), PLACE)
        assert (
            rules.difference(other, listed)
            == "the rules are others: those of another configuration, or of another Charon"
        )
        host.nft(f"flush chain inet {spec.table} inbound")
        assert " rules are there" in (rules.difference(wanted, kernel.listing(spec.table)) or "")
        kernel.load(rules.quiet(spec))
        listed = kernel.listing(spec.table)
        assert listed is not None and rules.is_quiet(listed)
        assert kernel.remove(spec.table) and not kernel.remove(spec.table)


def test_a_sign_of_life_keeps_and_revives(host: Host) -> None:
    short = replace(BOTH, hold=3600.0)
    with host.inside():
        kernel.load(rules.table(short, PLACE))
        host.nft("delete element inet charon alive { tcp }")
        assert not rules.in_force(kernel.listing("charon") or "")
        for _ in range(2):  # once to revive them, once more to keep them
            kernel.load(rules.sign_of_life(short))
            assert rules.in_force(kernel.listing("charon") or "")
        kernel.remove("charon")


def test_what_nft_does_not_take_is_told(host: Host) -> None:
    with host.inside(), pytest.raises(StartError, match="cannot put the rules of interception up: syntax error"):
        kernel.load("table inet charon { nonsense")


def test_without_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_PATH", "/nowhere")
    with pytest.raises(StartError, match="install the package nftables"):
        kernel.listing("charon")
