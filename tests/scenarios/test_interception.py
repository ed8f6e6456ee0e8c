"""Programs that know nothing of Charon, and their connections, which the kernel brings to it: two hosts, a cable.

The programs run as user 65534 on host ``a``; only that user's connections are taken.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.authority import Authority
from tests.harness.backends import Connection, ScriptedBackend, answering, http_response
from tests.harness.charon import CharonProcess, sample
from tests.harness.namespaces import Host, need_interception, two_hosts

APP = 65534

CONFIG = {
    "registry_file": "registry.yaml",
    "listeners": [
        {
            "name": "out",
            "address": ":15001",
            "protocol": "auto",
            "original_destination": True,
            "routes": [{"host": "api.test", "service": "api"}, {"sni": "*.db.test", "service": "db"}],
        },
        {"name": "in", "address": ":15006", "protocol": "auto", "original_destination": True},
    ],
    "intercept": {
        "enabled": True,
        "outbound": {"listener": "out", "users": [APP]},
        "inbound": {"listener": "in", "ports": ["9000-9010"]},
    },
}
REGISTRY = {"web": ["10.77.0.2:80", "10.77.0.2:81"], "api": "10.77.0.2:82", "db": "10.77.0.2:5432"}


def echo(connection: Connection) -> None:
    """Answer with whatever comes, until it ends."""
    while data := connection.sock.recv(65_536):
        connection.send(data)


def banner(connection: Connection) -> None:
    """The server speaks first, as in SMTP and MySQL; then it echoes."""
    connection.send(b"220 ready\r\n")
    echo(connection)


class World:
    """Two hosts, the servers on ``b``, and Charon on ``a``."""

    def __init__(self, a: Host, b: Host, stack: ExitStack) -> None:
        self.a, self.b = a, b
        self.servers: dict[int, ScriptedBackend] = {}
        with b.inside():
            for port in (80, 81, 82, 83):
                self.serve(stack, b.ip, port, answering(http_response(200, str(port).encode())))
            for port in (25, 5432, 7000):
                self.serve(stack, b.ip, port, banner if port != 5432 else echo)
            self.serve(stack, b.ip6, 84, answering(http_response(200, b"84")))
        with a.inside():
            self.serve(stack, a.ip, 9000, answering(http_response(200, b"9000")))
            self.serve(stack, a.ip, 9001, echo)
            self.serve(stack, a.ip, 22, banner)

    def serve(self, stack: ExitStack, host: str, port: int, script: object) -> None:
        self.servers[port] = stack.enter_context(ScriptedBackend(script, host=host, port=port))  # type: ignore[arg-type]

    def curl(self, url: str, *more: str, user: int | None = APP) -> str:
        """What a program on ``a`` gets."""
        return self.a.command("curl", "-sg", "--max-time", str(PATIENCE), url, *more, user=user)

    def connect(self, host: Host, address: str, port: int) -> socket.socket:
        """A connection of a root's program on ``host``."""
        with host.inside():
            return socket.create_connection((address, port), PATIENCE)

    def talk(self, port: int, text: str = "") -> str:
        """What a program on ``a`` that sends ``text``, if anything, is told first by ``b``."""
        code = (
            f"import socket; s = socket.create_connection(('{self.b.ip}', {port}), {PATIENCE:g}); "
            f"s.sendall({text.encode()!r}); print(s.recv(1000).decode(), end='')"
        )
        return self.a.command("/usr/bin/python3", "-c", code, user=APP)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    need_interception()
    with two_hosts() as (a, b), ExitStack() as stack:
        yield World(a, b, stack)


@pytest.fixture(scope="module")
def charon(world: World, start_shared_charon: StartCharon) -> CharonProcess:
    return start_shared_charon(CONFIG, REGISTRY, prefix=world.a.prefix)


def test_a_service_is_balanced_although_the_program_dialled_one_address(world: World, charon: CharonProcess) -> None:
    answers = [world.curl(f"http://{world.b.ip}/") for _ in range(4)]
    assert sorted(answers) == ["80", "80", "81", "81"]
    line = charon.wait_for_event("http_request", listener="out")
    assert line["destination"] == "10.77.0.2:80" and line["client"] == world.a.ip


def test_another_user_is_left_alone(world: World, charon: CharonProcess) -> None:
    assert [world.curl(f"http://{world.b.ip}/direct", user=None) for _ in range(4)] == ["80"] * 4
    assert world.curl(f"http://{world.b.ip}:83/later") == "83"
    charon.wait_for_event("http_request", path="/later")
    assert not [line for line in charon.log_lines("http_request") if line["path"] == "/direct"]


def test_a_route_goes_before_the_destination(world: World, charon: CharonProcess) -> None:
    assert world.curl(f"http://{world.b.ip}/", "-H", "Host: api.test") == "82"


def test_an_address_of_no_service_is_passed_through(world: World, charon: CharonProcess) -> None:
    assert world.curl(f"http://{world.b.ip}:83/") == "83"
    assert world.curl(f"http://[{world.b.ip6}]:84/") == "84"
    line = charon.wait_for_event("http_request", upstream="passthrough", destination="[fd77::2]:84")
    assert line["client"] == world.a.ip6


def test_a_program_in_python(world: World, charon: CharonProcess) -> None:
    code = f"import urllib.request as r; print(r.urlopen('http://{world.b.ip}:83/').read().decode(), end='')"
    assert world.a.command("/usr/bin/python3", "-c", code, user=APP) == "83"


def test_protocols_that_are_not_http(world: World, charon: CharonProcess) -> None:
    assert world.talk(5432, "SSH-2.0-client\r\n") == "SSH-2.0-client\r\n"  # the client speaks first
    assert world.talk(7000) == "220 ready\r\n"  # the server does, and the client waits
    assert world.talk(25) == "220 ready\r\n"  # the same on an opaque port, at once
    lines = charon.wait_for_events("tcp_connection", 3, listener="out")
    assert {line["destination"]: line["upstream"] for line in lines} == {
        "10.77.0.2:5432": "10.77.0.2:5432",
        "10.77.0.2:7000": "passthrough",
        "10.77.0.2:25": "passthrough",
    }
    assert {line["destination"]: line["bytes_out"] for line in lines}["10.77.0.2:25"] == len("220 ready\r\n")


def test_tls_goes_by_its_server_name_and_not_a_byte_is_lost(world: World, charon: CharonProcess) -> None:
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="one.db.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    code = (
        f"import socket; s = socket.create_connection(('{world.b.ip}', 83), 5); "
        f"h = bytes.fromhex('{hello.hex()}'); [s.sendall(h[i:i + 1]) for i in range(len(h))]; "
        "got = b''\nwhile len(got) < len(h): got += s.recv(65536)\nprint(got.hex(), end='')"
    )
    assert world.a.command("/usr/bin/python3", "-c", code, user=APP) == hello.hex()
    charon.wait_for_event("tcp_connection", upstream="10.77.0.2:5432", destination="10.77.0.2:83")


def test_inbound_to_a_port(world: World, charon: CharonProcess) -> None:
    assert world.b.command("curl", "-s", f"http://{world.a.ip}:9000/x") == "9000"
    line = charon.wait_for_event("http_request", listener="in")
    assert (line["client"], line["destination"]) == (world.b.ip, "10.77.0.1:9000")
    with world.connect(world.b, world.a.ip, 9001) as sock:
        sock.sendall(b"\x00binary")
        assert sock.recv(100) == b"\x00binary"
    with world.connect(world.b, world.a.ip, 22) as sock:
        assert sock.recv(100) == b"220 ready\r\n"  # ssh is excluded: the host can always be reached
    assert all(line["destination"] != "10.77.0.1:22" for line in charon.log_lines("tcp_connection"))


@pytest.mark.slow
def test_programs_of_a_control_group_or_a_group(world: World, start_charon: StartCharon) -> None:
    """And nobody else's connections."""
    # A namespace's command has a /sys of its own, without the control groups.
    cgroups = "mount -t cgroup2 none /sys/fs/cgroup && cd /sys/fs/cgroup && "
    name = f"charon-test-{os.getpid()}"
    intercept = {"outbound": {"listener": "out", "cgroups": [f"{name}/app"], "groups": [APP]}, "enabled": True}
    listeners = [{"name": "out", "address": ":15001", "protocol": "auto", "original_destination": True}]
    inside = ["sh", "-c", cgroups + 'exec "$@"', "sh"]

    def curl(path: str, cgroup: str, *prefix: str) -> None:
        step = f"{cgroups} echo 0 > {cgroup}/cgroup.procs && exec " + " ".join(prefix)
        url = f"http://{world.a.ip}:9000{path}"
        assert world.b.command("sh", "-c", f"{step} curl -s --max-time {PATIENCE:g} {url}") == "9000"

    world.b.command("sh", "-c", f"{cgroups} mkdir -p {name}/app/below {name}/other")
    try:
        charon = start_charon({"listeners": listeners, "intercept": intercept}, prefix=[*world.b.prefix, *inside])
        curl("/none", ".")
        curl("/other", f"{name}/other")
        curl("/app", f"{name}/app")
        curl("/below", f"{name}/app/below")
        curl("/group", ".", "setpriv", f"--regid={APP}", "--clear-groups")
        charon.wait_for_event("http_request", path="/group")
        assert [line["path"] for line in charon.log_lines("http_request")] == ["/app", "/below", "/group"]
        assert charon.stop() == 0
    finally:
        world.b.command("sh", "-c", f"{cgroups} rmdir {name}/app/below {name}/app {name}/other {name}")


def test_udp_is_untouched(world: World, charon: CharonProcess) -> None:
    with world.b.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with world.a.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.settimeout(PATIENCE)
        server.bind((world.b.ip, 9000))
        client.sendto(b"datagram", (world.b.ip, 9000))
        data, peer = server.recvfrom(100)
    assert (data, peer[0]) == (b"datagram", world.a.ip)


def test_what_is_dialled_to_charon_itself_leads_nowhere(world: World, charon: CharonProcess) -> None:
    with world.connect(world.b, world.a.ip, 15006) as sock:
        assert sock.recv(100) == b""
    line = charon.wait_for_event("intercept_refused", reason="own_listener", listener="in")
    assert line["destination"] == "10.77.0.1:15006"


def test_connections_are_counted_by_what_became_of_them(world: World, charon: CharonProcess) -> None:
    counted = charon.metrics()
    for direction, result in (
        ("outbound", "carried"), ("outbound", "passthrough"), ("inbound", "passthrough"), ("inbound", "refused")
    ):  # fmt: skip
        assert sample(counted, "charon_intercepted_connections_total", direction=direction, result=result) > 0
    assert sample(counted, "charon_intercept_active") == 1
    shown = json.loads(charon.admin("/api/status")[1])["interception"]
    assert shown["up"] and shown["trouble"] is None and shown["connections"]["inbound"]["refused"] >= 1
    _, table = charon.type("status")
    assert "\ninterception\n" in table and "refused" in table


def test_two_intercepted_hosts_speak_mutual_tls(
    world: World, charon: CharonProcess, start_charon: StartCharon, tmp_path: Path
) -> None:
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    files = {}
    for name in ("client", "server"):
        cert, key = authority.issue(f"spiffe://test/{name}").write(tmp_path, name)
        files[name] = {"cert_file": cert, "key_file": key, "ca_file": str(ca), "trust_domain": "test"}
    server = {
        "listeners": [
            {
                "name": "in",
                "address": ":15006",
                "protocol": "auto",
                "original_destination": True,
                "tls": {"enabled": True, **files["server"]},
                "access": {"allow": ["spiffe://test/client"]},
            }
        ],
        "intercept": {"enabled": True, "inbound": {"listener": "in", "ports": [9443]}},
    }
    client = {
        **CONFIG,
        "tls": files["client"],
        "services": {"secret": {"tls": {"enabled": True, "identities": ["spiffe://test/server"]}}},
    }
    with ExitStack() as stack:
        with world.b.inside():
            tap = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            world.serve(stack, world.b.ip, 9443, answering(http_response(200, b"the answer nobody may read")))
        start_charon(server, prefix=world.b.prefix)
        before = charon.config_path.read_text()
        charon.write_config(client)
        charon.write_registry({**REGISTRY, "secret": "10.77.0.2:9443"})
        status, body = charon.admin("/api/reload", "POST")
        assert status == 200, body
        tap.bind(("cable", 0))
        tap.setblocking(False)
        assert world.curl(f"http://{world.b.ip}:9443/question") == "the answer nobody may read"
        wire = b""
        try:
            while True:
                wire += tap.recv(65_536)
        except BlockingIOError:
            pass
        assert b"\x17\x03\x03" in wire, "records of TLS"
        assert b"question" not in wire and b"nobody may read" not in wire
        request = world.servers[9443].connections[0].received
        assert request.startswith(b"GET /question HTTP/1.1\r\n") and b"URI=spiffe://test/client" in request
        charon.config_path.write_text(before)
        charon.write_registry(REGISTRY)
        assert charon.admin("/api/reload", "POST")[0] == 200
