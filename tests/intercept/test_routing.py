"""The rule of routing for answers, in a kernel of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from charon.base.errors import StartError
from charon.intercept import routing
from tests.harness.namespaces import Host, need_interception, two_hosts

RULES = [
    "100: from 127.0.0.0/8 iif lo ipproto tcp sport 1-32767 lookup 300",
    "100: from ::1 iif lo ipproto tcp sport 1-32767 lookup 300",
]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    need_interception()
    with two_hosts() as (host, _):
        yield host


def ours(host: Host) -> list[str]:
    """The rules of ``host`` for the table 300."""
    listed = host.command("ip", "-4", "rule") + host.command("ip", "-6", "rule")
    return [" ".join(line.split()) for line in listed.splitlines() if "lookup 300" in line]


def test_it_is_put_there_once_and_taken_away(host: Host) -> None:
    with host.inside():
        assert not routing.left_over(300)
        assert routing.difference(300) == "the rule of routing for answers is not there (ip -4 rule)"
        for _ in range(2):
            routing.put(300)
            assert ours(host) == RULES
        assert routing.difference(300) is None and routing.left_over(300)
        routing.put(301)  # another Charon of this host
        assert routing.remove(300) and not routing.remove(300)
        assert ours(host) == [] and routing.difference(301) is None
        assert routing.remove(301)


def test_what_is_missing_is_told_and_put_back(host: Host) -> None:
    with host.inside():
        routing.put(300)
        host.command("ip", "-6", "route", "flush", "table", "300")
        assert routing.difference(300) == "the route for answers is not there (ip -6 route)"
        routing.put(300)
        host.command("ip", "-4", "rule", "del", "pref", "100")
        assert routing.difference(300) == "the rule of routing for answers is not there (ip -4 rule)"
        routing.put(300)
        assert routing.difference(300) is None and ours(host) == RULES
        assert routing.remove(300)


def test_what_is_shown_is_what_is_done(host: Host) -> None:
    with host.inside():
        for line in routing.text(300).splitlines():
            host.command(*line.removeprefix("# ").split())
        assert routing.difference(300) is None
        assert routing.remove(300)


def test_a_host_without_ipv6(host: Host) -> None:
    host.command("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    try:
        with host.inside():
            routing.put(300)
            assert ours(host) == RULES[:1] and routing.difference(300) is None
            assert routing.remove(300)
    finally:
        host.command("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")


def test_without_ip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_PATH", "/nowhere")
    with pytest.raises(StartError, match="install the package iproute2"):
        routing.check()
    assert not routing.left_over(300) and not routing.remove(300)
