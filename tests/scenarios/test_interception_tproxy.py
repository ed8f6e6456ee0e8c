"""Incoming connections by TPROXY: nothing in them is changed, and the program can see who its clients are.

Two hosts; Charon and the programs are on ``a``, clients on ``b``.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Closed, Connection, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.namespaces import Host, need_interception, two_hosts
from tests.harness.waiting import eventually

INBOUND: dict[str, Any] = {
    "listener": "in",
    "ports": ["9000-9001"],
    "mode": "tproxy",
    "keep_client_address": True,
}
CONFIG: dict[str, Any] = {
    "workers": 2,
    "drain_timeout": "30s",
    "registry_file": "registry.yaml",
    "listeners": [
        {
            "name": "in",
            "address": ":15006",
            "protocol": "auto",
            "original_destination": True,
            "routes": [{"host": "far.test", "service": "far"}, {"host": "near.test", "service": "near"}],
        },
    ],
    "intercept": {"enabled": True, "hold": "3s", "inbound": INBOUND},
}
REGISTRY = {"far": "10.77.0.2:80", "near": "localhost:9002"}
RULE_GONE = "the rule of routing for answers is not there (ip -4 rule)"


def config(on_stop: str = "open", **inbound: Any) -> dict[str, Any]:
    return {**CONFIG, "intercept": {**CONFIG["intercept"], "on_stop": on_stop, "inbound": {**INBOUND, **inbound}}}


def peer(connection: Connection) -> str:
    host: str = connection.sock.getpeername()[0]
    return host


def telling(connection: Connection) -> None:
    """HTTP: answers every request with the peer's address, and what stands in X-Forwarded-For."""
    while True:
        try:
            request = connection.read_request()
        except Closed:
            return
        connection.send(http_response(200, f"{peer(connection)} for {request.get('x-forwarded-for')}".encode()))


def greeting(connection: Connection) -> None:
    """The server speaks first: the peer's address; then it echoes."""
    connection.send(peer(connection).encode())
    while data := connection.recv():
        connection.send(data)


class World:
    """On ``a``: HTTP on 9000, another protocol on 9001, and HTTP on 9002 of loopback alone; on ``b``: HTTP on 80."""

    def __init__(self, a: Host, b: Host, stack: ExitStack) -> None:
        self.a, self.b = a, b
        with a.inside():
            for host in ("0.0.0.0", "::"):
                stack.enter_context(ScriptedBackend(telling, host=host, port=9000))
            self.greeter = stack.enter_context(ScriptedBackend(greeting, host="0.0.0.0", port=9001))
            for host in ("127.0.0.1", "::1"):
                stack.enter_context(ScriptedBackend(telling, host=host, port=9002))
        with b.inside():
            stack.enter_context(ScriptedBackend(telling, host=b.ip, port=80))

    def gets(self, six: bool = False, host: str = "a") -> str:
        """What a client on ``b`` gets from port 9000."""
        url = f"http://[{self.a.ip6}]:9000/" if six else f"http://{self.a.ip}:9000/"
        return self.b.command("curl", "-sg", "--max-time", str(PATIENCE), "-H", f"Host: {host}", url, check=False)

    def connect(self, port: int, source: int = 0) -> socket.socket:
        """A connection of a client on ``b`` to a port of ``a``."""
        with self.b.inside():
            return socket.create_connection((self.a.ip, port), PATIENCE, ("", source))

    def traces(self) -> str:
        """What the kernel of ``a`` has of Charon."""
        routing = [self.a.command("ip", family, "rule") for family in ("-4", "-6")]
        routes = self.a.command("ip", "route", "list", "table", "all", "type", "local")
        lines = "\n".join([*routing, routes]).splitlines()
        return self.a.rules() + "\n".join(line for line in lines if "25448" in line)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    need_interception()
    with two_hosts() as (a, b), ExitStack() as stack:
        yield World(a, b, stack)


@pytest.fixture(scope="class")
def running(world: World, start_shared_charon: StartCharon) -> Iterator[CharonProcess]:
    """For the tests that leave it as it was."""
    charon = start_shared_charon(CONFIG, REGISTRY, prefix=world.a.prefix)
    yield charon
    assert charon.stop() == 0
    assert not world.traces(), "what was put there is taken away"
    assert world.gets() == f"{world.b.ip} for None"


class TestWhileOneRuns:
    """All of these leave it as it was."""

    def test_the_program_sees_its_client(self, world: World, running: CharonProcess) -> None:
        for six, address in ((False, world.b.ip), (True, world.b.ip6)):
            since = len(running.log_lines())
            assert world.gets(six) == f"{address} for {address}"
            line = running.wait_for_event("http_request", since=since)
            here = f"[{world.a.ip6}]:9000" if six else f"{world.a.ip}:9000"
            assert (line["client"], line["destination"], line["upstream"]) == (address, here, "passthrough")
        with world.connect(9001) as sock:
            assert sock.recv(100).decode() == world.b.ip
            sock.sendall(b"\x00binary")
            assert sock.recv(100) == b"\x00binary"

    def test_an_address_of_the_clients_own_family_is_chosen(self, world: World, running: CharonProcess) -> None:
        for six, address in ((False, world.b.ip), (True, world.b.ip6)):
            assert world.gets(six, "near.test") == f"{address} for {address}"

    def test_a_program_on_another_host_sees_charon(self, world: World, running: CharonProcess) -> None:
        assert world.gets(host="far.test") == f"{world.a.ip} for {world.b.ip}"

    def test_no_connection_is_used_for_another_client(self, world: World, running: CharonProcess) -> None:
        world.b.command("ip", "addr", "add", "10.77.0.3/24", "dev", "cable")
        try:
            for address in (world.b.ip, "10.77.0.3", world.b.ip):
                url = f"http://{world.a.ip}:9000/"
                assert world.b.command("curl", "-s", "--interface", address, url, url) == f"{address} for {address}" * 2
        finally:
            world.b.command("ip", "addr", "del", "10.77.0.3/24", "dev", "cable")

    def test_a_client_may_have_the_port_that_the_program_sees(self, world: World, running: CharonProcess) -> None:
        with world.connect(9001) as first:
            assert first.recv(100).decode() == world.b.ip
            address, port = world.greeter.connections[-1].sock.getpeername()
            assert (address, port) != first.getsockname()
            with world.connect(9001, source=port) as second:
                assert second.recv(100).decode() == world.b.ip
                for sock in (second, first):
                    sock.sendall(str(sock.fileno()).encode())
                    assert sock.recv(100).decode() == str(sock.fileno())

    def test_what_another_rule_redirects_to_the_port_is_taken(self, world: World, running: CharonProcess) -> None:
        world.a.nft(
            "table inet other { chain c { type nat hook prerouting priority -100; "
            "tcp dport 8000 redirect to :9000; }; }"
        )
        try:
            since = len(running.log_lines())
            assert world.b.command("curl", "-s", f"http://{world.a.ip}:8000/") == f"{world.b.ip} for {world.b.ip}"
            assert running.wait_for_event("http_request", since=since)["destination"] == f"{world.a.ip}:9000"
        finally:
            world.a.nft("delete table inet other")

    def test_what_is_dialled_to_charon_itself_leads_nowhere(self, world: World, running: CharonProcess) -> None:
        with world.connect(15006) as sock:
            assert sock.recv(100) == b""
        line = running.wait_for_event("intercept_refused", reason="own_listener", listener="in")
        assert line["destination"] == "10.77.0.1:15006"

    def test_a_firewall_that_knows_connections_is_no_matter(self, world: World, running: CharonProcess) -> None:
        world.a.nft(
            "table inet wall { chain in { type filter hook input priority 0; policy drop; "
            'iif "lo" accept; ct state established,related accept; tcp dport 9000 ct state new accept; '
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }; }"
        )
        try:
            for six, address in ((False, world.b.ip), (True, world.b.ip6)):
                assert world.gets(six) == f"{address} for {address}"
        finally:
            world.a.nft("delete table inet wall")

    def test_cookies_instead_of_a_queue(self, world: World, running: CharonProcess) -> None:
        """What opens a connection is then its second packet."""
        world.a.command("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
        try:
            assert world.gets() == f"{world.b.ip} for {world.b.ip}"
        finally:
            world.a.command("sysctl", "-qw", "net.ipv4.tcp_syncookies=1")

    def test_rules_and_routing_that_somebody_removes_come_back(self, world: World, running: CharonProcess) -> None:
        assert running.type("intercept", "check") == (0, "the kernel has what is wanted\n")
        shown = running.type("intercept", "show")[1]
        assert "tproxy to :15006 accept" in shown and "# ip -6 rule add pref 100 from ::1 iif lo" in shown
        with world.connect(9001) as sock:
            assert sock.recv(100).decode() == world.b.ip
            since = len(running.log_lines())
            world.a.nft("flush ruleset")
            world.a.command("ip", "rule", "del", "pref", "100")
            found = {line["found"] for line in running.wait_for_events("intercept_restored", 2, since=since)}
            assert found == {"the table is not there", RULE_GONE}
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        assert world.gets() == f"{world.b.ip} for {world.b.ip}"

    def test_a_stopped_charon_gives_no_sign_of_life(self, world: World, running: CharonProcess) -> None:
        pids = [running.pid, *running.worker_pids()]
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: "expires" not in world.a.rules())
            assert world.gets() == f"{world.b.ip} for None"
        finally:
            for pid in pids:
                assert pid is not None
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: "expires" in world.a.rules())
        assert world.gets() == f"{world.b.ip} for {world.b.ip}"


@pytest.mark.slow
def test_killed_with_no_chance_to_clear_up(world: World, start_charon: StartCharon) -> None:
    charon = start_charon(CONFIG, REGISTRY, prefix=world.a.prefix)
    with world.connect(9001) as sock:
        assert sock.recv(100).decode() == world.b.ip
        charon.kill()
        assert "expires" in world.a.rules() and world.gets() == f"{world.b.ip} for None", "at once, with rules and all"
    world.a.nft("flush ruleset")
    assert charon.type("intercept", "check") == (
        1,
        "there is a rule of routing that nobody keeps; charon intercept down removes it\n",
    )
    with world.connect(9001) as sock:  # a rule that is left over takes nothing
        assert sock.recv(100).decode() == world.b.ip
    assert charon.type("intercept", "down") == (0, "down\n")
    assert not world.traces()
    assert charon.type("intercept", "down") == (0, "there were no rules\n")


@pytest.mark.slow
def test_connections_that_are_open_go_on(world: World, start_charon: StartCharon) -> None:
    """Those from before the rules are not taken; those that are carried end neither with the rules nor with a mode."""
    before = world.connect(9001)
    assert before.recv(100).decode() == world.b.ip
    charon = start_charon(CONFIG, REGISTRY, prefix=world.a.prefix)
    through = world.connect(9001)
    assert through.recv(100).decode() == world.b.ip

    def go_on() -> None:
        for sock in (before, through):
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"

    with before, through:
        go_on()
        for mode in ("redirect", "tproxy"):
            charon.write_config(config(mode=mode, keep_client_address=False))
            assert charon.admin("/api/reload", "POST")[0] == 200
            for _ in range(2):
                assert world.gets() == f"{world.a.ip} for {world.b.ip}"
            go_on()
        charon.write_config(CONFIG)
        assert charon.admin("/api/reload", "POST")[0] == 200
        assert world.gets() == f"{world.b.ip} for {world.b.ip}"
        charon.upgrade()
        charon.wait_for_event("intercept_up")
        go_on()
        assert charon.type("intercept", "down") == (0, "down\n")
        go_on()
        assert world.gets() == f"{world.b.ip} for None"
    charon.wait_for_event("stopped")
    assert charon.stop() == 0
    assert not world.traces()


@pytest.mark.slow
def test_closed_on_stop(world: World, start_charon: StartCharon) -> None:
    charon = start_charon(config("closed"), REGISTRY, prefix=world.a.prefix)
    before = world.connect(9001)
    with before:
        assert before.recv(100).decode() == world.b.ip
    charon.kill()
    with pytest.raises(ConnectionRefusedError):
        world.connect(9001)
    assert charon.type("intercept", "down") == (0, "down\n")
    assert world.gets() == f"{world.b.ip} for None" and not world.traces()
