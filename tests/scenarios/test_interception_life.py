"""A host with interception stays reachable whatever happens to Charon, and no rule of Charon's outlives it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import ScriptedBackend, answering, http_response
from tests.harness.charon import CharonProcess
from tests.harness.namespaces import Host, need_interception, reboot, two_hosts
from tests.harness.waiting import eventually

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {
    "workers": 1,
    "drain_timeout": "30s",
    "listeners": [
        {"name": "out", "address": ":15001", "protocol": "auto", "original_destination": True},
        {"name": "in", "address": ":15006", "protocol": "auto", "original_destination": True},
    ],
    "intercept": {
        "enabled": True,
        "hold": "3s",
        "outbound": {"listener": "out"},
        "inbound": {"listener": "in", "ports": [9000]},
    },
}


def config(**intercept: Any) -> dict[str, Any]:
    return {**CONFIG, "intercept": {**CONFIG["intercept"], **intercept}}


class World:
    """Two hosts; ``b`` has servers on 80 and 22, ``a`` on 9000 and 22."""

    def __init__(self, a: Host, b: Host, stack: ExitStack) -> None:
        self.a, self.b = a, b
        self.stack = stack
        self.serve(b, 80, 22)
        self.serve(a, 9000, 22)

    def serve(self, host: Host, *ports: int) -> None:
        with host.inside():
            for port in ports:
                answer = answering(http_response(200, str(port).encode()))
                self.stack.enter_context(ScriptedBackend(answer, host=host.ip, port=port))

    def gets(self, source: Host, target: Host, port: int) -> str | None:
        """What ``source`` gets from ``target``; None when it cannot be reached."""
        with source.inside():
            sock = socket.socket()
        with sock:
            sock.settimeout(PATIENCE)
            try:
                sock.connect((target.ip, port))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = sock.recv(65_536)  # head and body are one write of the server's, and one of Charon's
            except ConnectionError:
                return None
        return answer.rpartition(b"\r\n\r\n")[2].decode() or None

    def is_open(self) -> bool:
        """Whether everything on the two hosts reaches everything."""
        ends = ((self.a, self.b, 80), (self.a, self.b, 22), (self.b, self.a, 9000), (self.b, self.a, 22))
        return [self.gets(*end) for end in ends] == [str(port) for _, _, port in ends]

    def is_there(self) -> bool:
        """Whether the kernel has any rule of Charon's."""
        return "charon" in self.a.rules()

    def carried(self, charon: CharonProcess) -> None:
        """A connection each way goes through ``charon``."""
        for source, target, port in ((self.a, self.b, 80), (self.b, self.a, 9000)):
            since = len(charon.log_lines())
            assert self.gets(source, target, port) == str(port)
            charon.wait_for_event("http_request", since=since, destination=f"{target.ip}:{port}")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    need_interception()
    with two_hosts() as (a, b), ExitStack() as stack:
        yield World(a, b, stack)


@pytest.fixture
def start(world: World, start_charon: StartCharon) -> Iterator[Callable[..., CharonProcess]]:
    yield lambda wanted=CONFIG: start_charon(wanted, prefix=world.a.prefix)
    world.a.nft("flush ruleset")


Start = Callable[..., CharonProcess]


@pytest.fixture(scope="class")
def running(world: World, start_shared_charon: StartCharon) -> Iterator[CharonProcess]:
    """For the tests that leave it as it was."""
    charon = start_shared_charon(CONFIG, prefix=world.a.prefix)
    yield charon
    assert charon.stop() == 0
    assert not world.is_there() and world.is_open()


class TestWhileOneRuns:
    """All of these leave it as it was."""

    def test_the_rules_are_what_is_wanted(self, world: World, running: CharonProcess) -> None:
        world.carried(running)
        assert running.type("intercept", "check") == (0, "the kernel has what is wanted\n")
        assert "redirect to :15001" in running.type("intercept", "show")[1]

    def test_a_killed_worker_is_no_matter(self, world: World, running: CharonProcess) -> None:
        os.kill(running.worker_pids()[0], signal.SIGKILL)
        running.wait_for_events("worker_started", 2)
        world.carried(running)
        assert running.type("intercept", "check")[0] == 0

    def test_a_stopped_supervisor_gives_no_sign_of_life(self, world: World, running: CharonProcess) -> None:
        running.signal(signal.SIGSTOP)
        try:
            eventually(lambda: "expires" not in world.a.rules())
            since = len(running.log_lines())
            assert world.is_open()
            assert not running.log_lines()[since:]
        finally:
            running.signal(signal.SIGCONT)
        eventually(lambda: "expires" in world.a.rules())
        world.carried(running)

    def test_a_second_one_changes_nothing(self, world: World, running: CharonProcess, make_charon: StartCharon) -> None:
        rules = world.a.command("nft", "-s", "list", "ruleset")
        second = make_charon(CONFIG, prefix=world.a.prefix)
        second.start(wait=False)
        assert second.wait() == 3  # the port is taken
        assert world.a.command("nft", "-s", "list", "ruleset") == rules
        world.carried(running)

    def test_rules_that_somebody_flushes_or_changes_come_back(self, world: World, running: CharonProcess) -> None:
        since = len(running.log_lines())
        world.a.nft("flush ruleset")
        assert world.is_open()
        assert running.wait_for_event("intercept_restored", since=since)["found"] == "the table is not there"
        world.carried(running)
        since = len(running.log_lines())
        world.a.nft("insert rule inet charon outbound counter accept")
        found = running.wait_for_event("intercept_restored", since=since)["found"]
        assert found.startswith("there is a rule that is not Charon's: ")
        world.carried(running)

    def test_a_firewall_that_is_loaded_anew_stays_beside_them(self, world: World, running: CharonProcess) -> None:
        """As firewalld and nftables.service do it: everything away, their own tables in, in one transaction."""
        since = len(running.log_lines())
        for _ in range(2):
            world.a.nft(
                "flush ruleset\n"
                "table inet firewalld {\n"
                " chain nat { type nat hook prerouting priority dstnat + 10; tcp dport 8000 redirect to :9000; }\n"
                " chain wall { type filter hook input priority filter + 10; policy drop; iif lo accept;"
                " ct state established,related accept; ct status dnat accept; tcp dport { 22, 9000 } accept;"
                " meta l4proto { icmp, icmpv6 } accept; }\n"
                "}"
            )
            assert world.is_open()
        running.wait_for_event("intercept_restored", since=since)
        world.carried(running)
        assert world.gets(world.b, world.a, 8000) == "9000"
        rules = world.a.rules()
        assert rules.count("table inet firewalld") == rules.count("table inet charon") == 1
        assert running.type("intercept", "check") == (0, "the kernel has what is wanted\n")
        world.a.nft("delete table inet firewalld")
        world.carried(running)


def test_connections_that_are_open_go_on(world: World, start: Start) -> None:
    """Those from before the rules are not taken, those that are carried do not end with the rules."""
    with world.a.inside():
        before = socket.create_connection((world.b.ip, 80), PATIENCE)
    world.a.nft("table inet other { chain c { type filter hook input priority 0; tcp dport 1 drop; }; }")
    charon = start()
    with world.a.inside():
        through = socket.create_connection((world.b.ip, 80), PATIENCE)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with before, through:
        for sock in (before, through):
            sock.sendall(request)
            assert sock.recv(65_536).endswith(b"80")
        charon.wait_for_events("http_request", 1)
        assert charon.type("intercept", "down") == (0, "down\n")
        assert charon.type("intercept", "check")[0] == 0
        through.sendall(request)
        assert through.recv(65_536).endswith(b"80")
        charon.wait_for_events("http_request", 2)
    assert "redirect" not in world.a.rules() and world.is_open()
    assert len(charon.log_lines("http_request")) == 2, "what was taken away stays away"
    assert charon.type("intercept", "up") == (0, "up\n")
    world.carried(charon)
    with world.a.inside():
        last = socket.create_connection((world.b.ip, 80), PATIENCE)
    with last:
        last.sendall(request[:-2])
        charon.signal(signal.SIGTERM)
        charon.wait_for_event("shutting_down")
        assert "redirect" not in world.a.rules() and world.is_open()
        last.sendall(request[-2:])
        assert last.recv(65_536).endswith(b"80"), "what is under way at a stop is finished"
    assert charon.wait() == 0
    assert not world.is_there() and "table inet other" in world.a.rules()
    assert charon.type("intercept", "check")[0] == 0
    assert charon.type("intercept", "up") == (
        3,
        "charon: no Charon is running to which the rules could lead; it puts them up when it starts\n",
    )


def test_killed_with_no_chance_to_clear_up(world: World, start: Start) -> None:
    charon = start()
    charon.kill()
    eventually(world.is_open)  # the kernel ends the rules by itself
    code, text = charon.type("intercept", "check")
    assert (code, text) == (1, "there is a table that nobody keeps; charon intercept down removes it\n")
    second = start()
    world.carried(second)
    assert world.a.rules().count("table inet charon") == 1
    second.kill()
    assert charon.type("intercept", "down") == (0, "down\n")
    assert not world.is_there() and world.is_open()
    assert charon.type("intercept", "down") == (0, "there were no rules\n")


@pytest.mark.parametrize("on_stop", ["open", "closed"])
def test_a_reboot_leaves_no_rule_and_a_start_brings_them_back(start_charon: StartCharon, on_stop: str) -> None:
    need_interception()
    with two_hosts() as (a, b), ExitStack() as stack:
        world = World(a, b, stack)
        charon = start_charon(config(on_stop=on_stop), prefix=a.prefix)
        world.carried(charon)
        charon.kill()  # as a power cut does
        reboot(a, b)
        world.serve(a, 9000, 22)
        assert not a.rules().strip() and world.is_open()
        charon.start()
        world.carried(charon)
        assert charon.type("intercept", "check") == (0, "the kernel has what is wanted\n")
        assert a.rules().count("table inet") == 1
        assert charon.stop() == 0
        assert charon.type("intercept", "down") == (0, "there were no rules\n" if on_stop == "open" else "down\n")
        assert not a.rules().strip() and world.is_open()


def test_an_upgrade_hands_the_rules_on(world: World, start: Start) -> None:
    charon = start()
    stop, failures = threading.Event(), []

    def keep_asking() -> None:
        while not stop.is_set():
            if world.gets(world.b, world.a, 9000) != "9000":
                failures.append("not reached")

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        charon.upgrade()
        charon.wait_for_event("stopped")
    finally:
        stop.set()
        asking.join(PATIENCE)
    assert not failures
    assert not charon.log_lines("intercept_down")
    world.carried(charon)


def test_a_successor_without_interception_leaves_no_rule(world: World, start: Start) -> None:
    charon = start()
    charon.write_config(config(enabled=False))
    charon.upgrade()
    charon.wait_for_event("stopped")
    assert not world.is_there() and world.is_open()


def test_a_reload_changes_the_rules_and_ends_them(world: World, start: Start) -> None:
    charon = start()
    charon.write_config(config(table="second", inbound={"listener": "in", "ports": [9001]}))
    assert charon.admin("/api/reload", "POST")[0] == 200
    rules = world.a.rules()
    assert rules.count("redirect") == 2 and "9001" in rules.partition("table inet second")[2]
    charon.write_config(config(outbound={"listener": "out", "users": ["nobody-knows"]}))
    status, body = charon.admin("/api/reload", "POST")
    assert status == 422 and b"there is no user nobody-knows" in body
    charon.write_config(config(enabled=False))
    assert charon.admin("/api/reload", "POST")[0] == 200
    assert "redirect" not in world.a.rules() and world.is_open()
    assert charon.stop() == 0
    assert not world.a.rules().strip()


def test_closed_on_stop(world: World, start: Start) -> None:
    charon = start(config(on_stop="closed"))
    world.carried(charon)
    charon.kill()
    assert world.gets(world.a, world.b, 80) is None and world.gets(world.b, world.a, 9000) is None
    assert world.gets(world.b, world.a, 22) == "22" and world.gets(world.a, world.b, 22) == "22"
    assert charon.type("intercept", "check") == (0, "the kernel has what is wanted\n")
    assert charon.type("intercept", "down", "--stopping") == (0, "the rules stay, as on_stop is closed\n")
    assert charon.type("intercept", "down") == (0, "down\n")
    assert world.is_open()
    assert charon.type("intercept", "check") == (1, "the table is not there\n")
    again = start(config(on_stop="closed"))
    assert again.stop() == 0
    assert world.gets(world.a, world.b, 80) is None
    again.write_config("intercept: {enabled: perhaps}")  # the way out does not need it
    assert again.type("intercept", "down") == (0, "down\n")
    assert not world.is_there() and world.is_open()


def test_without_the_capability_charon_does_not_start(world: World, make_charon: StartCharon) -> None:
    less = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    charon = make_charon(CONFIG, prefix=[*world.b.prefix, *less])
    charon.start(wait=False)
    assert charon.wait() == 3
    assert "CAP_NET_ADMIN" in charon.stderr()
    assert not world.b.rules().strip() and world.is_open()
