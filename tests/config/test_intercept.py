"""What the configuration of interception comes to, and its mistakes."""

from __future__ import annotations

import pytest

from charon.config.compile import compile_settings
from charon.config.interception import InboundSpec, InterceptSpec, OutboundSpec
from charon.config.settings import Settings
from tests.config.support import Folder

LISTENERS = """
listeners:
  - {name: out, address: '127.0.0.1:15001', protocol: auto, original_destination: true}
  - {name: in, address: ':15006', protocol: auto, original_destination: true, passthrough: deny,
     opaque_ports: [25, 3000-3010]}
  - {name: plain, address: ':8080', target_service_addr: a:1}
"""


def settings(folder: Folder, text: str) -> Settings:
    return compile_settings(folder.load(text))


def test_off_by_default(folder: Folder) -> None:
    found = settings(folder, "target_service_addr: a:1\n")
    assert found.intercept is None
    assert [listener.direction for listener in found.listeners] == [None]


def test_the_defaults_keep_a_host_reachable(folder: Folder) -> None:
    text = LISTENERS + "intercept: {enabled: true, outbound: {listener: out}, inbound: {listener: in, ports: [8080]}}"
    found = settings(folder, text)
    assert found.intercept == InterceptSpec(
        table="charon",
        mark=0x6368,
        fail_open=True,
        hold=10.0,
        outbound=OutboundSpec(
            "out",
            exclude_ports=("22", "53", "67", "68", "123", "546", "547"),
            exclude_networks=("169.254.169.254/32", "fd00:ec2::254/128"),
        ),
        inbound=InboundSpec("in", ("8080",), exclude_ports=("22",)),
    )
    assert [listener.direction for listener in found.listeners] == ["outbound", "inbound", None]
    assert [listener.passthrough for listener in found.listeners] == [True, False, True]
    assert found.listeners[0].opaque_ports[0] == (21, 21)
    assert found.listeners[1].opaque_ports == ((25, 25), (3000, 3010))
    assert [listener.metrics_path for listener in found.listeners] == [None, None, "/metrics"]


def test_every_value_that_is_given_is_used(folder: Folder) -> None:
    text = LISTENERS + (
        "intercept: {enabled: true, on_stop: closed, hold: 1m, mark: 7, table: second, outbound: {listener: out, "
        "users: [app, 1000], groups: [apps], cgroups: [/system.slice/app.service], ports: [80, 443-444], "
        "networks: [10.0.0.0/8], exclude_users: [backup], exclude_groups: [5], exclude_ports: [25], "
        "exclude_networks: ['fd00::/8'], loopback: true}, inbound: {listener: in, ports: [1-65535], "
        "networks: [10.1.0.0/16], exclude_ports: [22, 9100], exclude_networks: [10.1.2.3], mode: tproxy, "
        "keep_client_address: true, routing_table: 300}}"
    )
    found = settings(folder, text)
    assert [listener.transparent for listener in found.listeners] == [False, True, False]
    assert [listener.keeps_client for listener in found.listeners] == [False, True, False]
    assert found.intercept is not None and found.intercept.routing_table == 300
    assert found.intercept == InterceptSpec(
        table="second",
        mark=7,
        fail_open=False,
        hold=60.0,
        outbound=OutboundSpec(
            "out",
            users=("app", "1000"),
            groups=("apps",),
            cgroups=("system.slice/app.service",),
            ports=("80", "443-444"),
            networks=("10.0.0.0/8",),
            exclude_users=("backup",),
            exclude_groups=("5",),
            exclude_ports=("25",),
            exclude_networks=("fd00::/8",),
            loopback=True,
        ),
        inbound=InboundSpec("in", ("1-65535",), ("10.1.0.0/16",), ("22", "9100"), ("10.1.2.3/32",), True, 300),
    )


def test_rules_that_are_off_change_no_listener(folder: Folder) -> None:
    text = "intercept: {inbound: {listener: in, ports: [1], mode: tproxy, keep_client_address: true}}"
    found = settings(folder, LISTENERS + text)
    assert found.intercept is None
    assert not any(listener.transparent or listener.keeps_client for listener in found.listeners)


ONE = "listeners: [{name: out, address: ':1', protocol: %s, original_destination: %s, target_service_addr: a:1%s}]\n"

MISTAKES = [
    (
        LISTENERS + "intercept: {enabled: true, inbound: {listener: in, ports: [1], keep_client_address: true}}",
        "7: intercept.inbound.keep_client_address: it has no effect without mode: tproxy",
    ),
    (
        LISTENERS + "intercept: {enabled: true, inbound: {listener: in, ports: [1], routing_table: 300}}",
        "7: intercept.inbound.routing_table: it has no effect without keep_client_address: true",
    ),
    (
        "target_service_addr: a:1\nintercept: {enabled: true}",
        "2: intercept.enabled: there is nothing to bring here; give outbound.listener or inbound.listener",
    ),
    (
        ONE % ("auto", "true", "") + "intercept: {enabled: true, outbound: {listener: ot}}",
        "2: intercept.outbound.listener: there is no listener 'ot' (did you mean out?); give one of that name in "
        "listeners",
    ),
    (
        ONE % ("auto", "false", "") + "intercept: {enabled: true, outbound: {listener: out}}",
        "2: intercept.outbound.listener: the listener out has no original_destination: true",
    ),
    (
        ONE % ("auto", "true", "") + "intercept: {enabled: true, inbound: {listener: out}}",
        "2: intercept.inbound.ports: give the ports to which connections are taken",
    ),
    (
        ONE % ("auto", "true", "")
        + "intercept: {enabled: true, outbound: {listener: out}, inbound: {listener: out, ports: [1]}}",
        "2: intercept.inbound.listener: outbound has the same listener; each direction has its own",
    ),
    (
        LISTENERS.replace(":15006", "127.0.0.1:15006")
        + "intercept: {enabled: true, inbound: {listener: in, ports: [1]}}",
        "7: intercept.inbound.listener: the listener in must listen on all interfaces",
    ),
    (
        ONE % ("auto", "true", ", tls: {enabled: true}") + "intercept: {enabled: true, outbound: {listener: out}}",
        "2: intercept.outbound.listener: the listener out speaks TLS, of which the programs know nothing; "
        "give tls.enabled: false there",
    ),
    (
        ONE % ("auto", "false", ", passthrough: deny"),
        "1: listeners[0].passthrough: it has no effect without original_destination: true",
    ),
    (
        ONE % ("tcp", "true", ", opaque_ports: [1]"),
        "1: listeners[0].opaque_ports: it has no effect without protocol: auto",
    ),
    (
        "listeners: [{address: 'unix:/x', protocol: auto, original_destination: true}]",
        "1: listeners[0].original_destination: connections to a Unix socket had no other destination; "
        "give an address with a port",
    ),
    ("intercept: {hold: 1s}", "1: intercept.hold: '1s' is not allowed; write 3s or more, and at most an hour"),
    ("intercept: {table: 'a b'}", "1: intercept.table: 'a b' is not the name of a table; write letters, digits and _"),
    (
        "intercept: {outbound: {ports: [90-80]}}",
        "1: intercept.outbound.ports[0]: '90-80' is not a port or a range of ports; write 80 or 8000-8100",
    ),
    (
        "intercept: {outbound: {users: ['a b']}}",
        "1: intercept.outbound.users[0]: 'a b' is not the name or the number of a user or a group",
    ),
    (
        "intercept: {outbound: {cgroups: ['a\"b']}}",
        "1: intercept.outbound.cgroups[0]: 'a\"b' is not a cgroup; write its path below /sys/fs/cgroup: "
        "system.slice/app.service",
    ),
    (
        "intercept: {outbound: {networks: [10.0.0.1/8]}}",
        "1: intercept.outbound.networks[0]: '10.0.0.1/8' has address bits to the right of its mask (did you mean "
        "10.0.0.0/8?); write an address or a network such as 10.0.0.0/8",
    ),
]


@pytest.mark.parametrize(("text", "problem"), MISTAKES)
def test_mistakes(folder: Folder, text: str, problem: str) -> None:
    assert folder.problems(text) == [problem]
