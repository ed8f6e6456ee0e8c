"""Accepting: no failure spins or ends a listener, and no more connections are open than allowed."""

from __future__ import annotations

import errno
import os
import socket as std
from _socket import socket as RawSocket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from charon.net.accept import Acceptor, peer_ip, why
from charon.net.capacity import Capacity
from charon.net.listen import listen
from tests.net.support import until


class Holding(Acceptor):
    """Keeps every connection until ``release`` is set."""

    def __init__(self, fd: int, max_connections: int = 100, capacity: Capacity | None = None) -> None:
        self.errors: list[OSError] = []
        self.held: list[RawSocket] = []
        self.addresses: list[Any] = []
        self.release = Flag()
        super().__init__(fd, max_connections, self.errors.append, capacity or Capacity(1024))

    def handle(self, sock: RawSocket, address: Any) -> None:
        self.held.append(sock)
        self.addresses.append(address)
        self.release.wait()
        self.held.remove(sock)
        sock.close()


@pytest.fixture
def port_and_server() -> Iterator[tuple[int, Holding]]:
    (raw,) = listen("127.0.0.1:0", 1)
    server = Holding(os.dup(raw.fileno()), 2)
    server.start()
    yield raw.getsockname()[1], server
    server.release.set()
    server.stop()
    raw.close()


def connect(port: int) -> RawSocket:
    sock = RawSocket(std.AF_INET, std.SOCK_STREAM)
    sock.connect(("127.0.0.1", port))
    return sock


def test_connections_come_raw_and_without_delay(port_and_server: tuple[int, Holding]) -> None:
    port, server = port_and_server
    client = connect(port)
    until(lambda: server.held)
    assert type(server.held[0]) is RawSocket
    assert not server.held[0].getblocking()
    assert server.held[0].getsockopt(std.IPPROTO_TCP, std.TCP_NODELAY)
    assert server.addresses == [client.getsockname()]
    client.close()


def test_connections_over_the_limit_wait_until_one_ends(port_and_server: tuple[int, Holding]) -> None:
    port, server = port_and_server
    clients = [connect(port) for _ in range(5)]
    until(lambda: len(server.held) == 2)
    gevent.sleep(0.02)
    assert len(server.held) == 2 and server.full()
    server.release.set()
    until(lambda: len(server.addresses) == 5)
    for client in clients:
        client.close()


class Scarce:
    """A listening socket whose accept fails as told before it works."""

    def __init__(self, real: Any, failures: list[int]) -> None:
        self._real = real
        self.failures = failures
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _accept(self) -> tuple[int, Any]:
        self.asked += 1
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        result: tuple[int, Any] = self._real._accept()
        return result


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_shortage_pauses_accepting_and_passes(port_and_server: tuple[int, Holding], number: int) -> None:
    port, server = port_and_server
    scarce = server.socket = Scarce(server.socket, [number] * 3)
    client = connect(port)
    until(lambda: server.held)
    assert [error.errno for error in server.errors] == [number] * 3
    assert scarce.asked <= 5  # three failures, one success, one look for more: no spinning
    client.close()


def test_listeners_share_the_capacity_of_their_process() -> None:
    capacity = Capacity(1024)
    capacity.set_limit(3)
    raw = [listen("127.0.0.1:0", 1)[0] for _ in range(2)]
    servers = [Holding(os.dup(sock.fileno()), 100, capacity) for sock in raw]
    for server in servers:
        server.start()
    clients = [connect(sock.getsockname()[1]) for sock in raw for _ in range(5)]
    until(lambda: capacity.paused)
    assert capacity.open == sum(len(server.held) for server in servers) == 3
    assert capacity.pauses == {"connections": 1}
    for server in servers:
        server.release.set()
    until(lambda: sum(len(server.addresses) for server in servers) == 10)
    until(lambda: not capacity.open)
    assert capacity.paused is None
    for server in servers:
        server.stop()
    for sock in [*clients, *raw]:
        sock.close()


def test_a_connection_lost_in_the_queue_does_not_pause_anything(port_and_server: tuple[int, Holding]) -> None:
    port, server = port_and_server
    server.socket = Scarce(server.socket, [errno.ECONNABORTED])
    client = connect(port)
    until(lambda: server.held)
    assert [error.errno for error in server.errors] == [errno.ECONNABORTED]
    client.close()


def test_stopping_takes_what_waits_in_the_kernel_first() -> None:
    (raw,) = listen("127.0.0.1:0", 1)
    server = Holding(os.dup(raw.fileno()))
    server.start()
    clients = [connect(raw.getsockname()[1]) for _ in range(20)]
    server.stop_listening()  # before the loop has had a chance to accept even one
    server.stop_listening()  # safe to repeat
    until(lambda: len(server.held) == 20)
    assert server.closed
    server.release.set()
    server.pool_of_connections.join()
    for client in clients:
        client.close()
    raw.close()


def test_a_unix_socket_has_no_delay_to_switch_off(tmp_path: Path) -> None:
    (raw,) = listen(f"unix:{tmp_path}/s", 1)
    server = Holding(os.dup(raw.fileno()))
    server.start()
    client = RawSocket(std.AF_UNIX, std.SOCK_STREAM)
    client.connect(f"{tmp_path}/s")
    until(lambda: server.held)
    assert [peer_ip(address) for address in server.addresses] == ["unix"]
    assert not server.errors
    server.release.set()
    server.stop()
    client.close()
    raw.close()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("10.1.2.3", 4000), "10.1.2.3"),
        (("::1", 4000, 0, 0), "::1"),
        (("::ffff:10.1.2.3", 4000, 0, 0), "10.1.2.3"),
        (("2001:db8::ffff", 4000, 0, 0), "2001:db8::ffff"),
        ("", "unix"),
        (b"", "unix"),
    ],
)
def test_the_peer_is_named_as_people_name_it(address: object, shown: str) -> None:
    assert peer_ip(address) == shown


def test_errors_are_told_in_words() -> None:
    assert why(OSError(errno.EMFILE, "")) == "Too many open files"
    assert why(OSError("odd")) == "odd"
