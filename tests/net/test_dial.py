"""Connecting: the first candidate that accepts, within one deadline, and a reason when none does."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket as std
from collections.abc import Iterator
from pathlib import Path

import pytest
from gevent import socket

from charon.base.errors import CONNECT_FAILED, CONNECT_REFUSED, CONNECT_TIMEOUT, LOCAL_LIMIT, ExchangeFailed
from charon.config.interception import HIGHEST_KEPT_PORT
from charon.config.snapshot import SocketAddress
from charon.net.dial import dial
from tests.harness.backends import black_hole

PATIENT = 10.0


@contextlib.contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, SocketAddress]]:
    listener = socket.socket(std.AF_INET6 if ":" in host else std.AF_INET)
    listener.bind((host, 0))
    listener.listen()
    with contextlib.closing(listener):
        yield listener, SocketAddress(host, listener.getsockname()[1])


def refused(host: str = "127.0.0.1") -> SocketAddress:
    with listening(host) as (_, address):
        return address


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connects_over_either_family_without_delay_and_with_keepalive(host: str) -> None:
    with listening(host) as (listener, address):
        stream = dial([address], PATIENT)
        peer, _ = listener.accept()
        stream.write(b"hi", PATIENT)
        assert peer.recv(10) == b"hi"
        assert stream.sock.getsockopt(std.IPPROTO_TCP, std.TCP_NODELAY)
        assert stream.sock.getsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE)
        assert not stream.sock.getblocking()
        stream.close()
        peer.close()


def test_connects_to_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with contextlib.closing(socket.socket(std.AF_UNIX)) as listener:
        listener.bind(path)
        listener.listen()
        stream = dial([SocketAddress(path, 0)], PATIENT)
        assert stream.quiet()
        stream.close()


def test_the_next_candidate_is_tried_when_one_refuses() -> None:
    with listening() as (_, address):
        stream = dial([refused(), refused("::1"), address], PATIENT)
        assert stream.sock.getpeername()[1] == address.port
        stream.close()


def test_a_silent_candidate_leaves_time_for_the_next() -> None:
    with black_hole() as silent, listening() as (_, address):
        stream = dial([SocketAddress("127.0.0.1", int(silent.rpartition(":")[2])), address], 0.2)
        assert stream.sock.getpeername()[1] == address.port
        stream.close()


def test_all_silent_is_a_timeout() -> None:
    with black_hole() as silent, pytest.raises(ExchangeFailed) as caught:
        dial([SocketAddress("127.0.0.1", int(silent.rpartition(":")[2]))], 0.05)
    assert caught.value.reason is CONNECT_TIMEOUT
    assert caught.value.detail == f"no answer from {silent} in 0.05 s"


def test_refused_is_told_with_the_address() -> None:
    address = refused("::1")
    with pytest.raises(ExchangeFailed) as caught:
        dial([address], PATIENT)
    assert caught.value.reason is CONNECT_REFUSED
    assert caught.value.detail == f"[::1]:{address.port}: Connection refused"


def test_the_failure_of_the_preferred_candidate_is_the_one_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExchangeFailed) as caught:
        dial([SocketAddress(str(tmp_path / "nobody"), 0), refused()], PATIENT)
    assert caught.value.reason is CONNECT_FAILED
    assert caught.value.detail == f"{tmp_path}/nobody: No such file or directory"


def test_no_candidates_is_a_failure_too() -> None:
    with pytest.raises(ExchangeFailed) as caught:
        dial([], PATIENT)
    assert caught.value.reason is CONNECT_FAILED


@pytest.mark.parametrize("source", ["192.0.2.1", "2001:db8::1", "127.0.0.9"])
def test_a_port_that_clients_may_have_is_dialled_from_this_hosts_address(source: str) -> None:
    with listening() as (listener, address):
        assert address.port > HIGHEST_KEPT_PORT
        stream = dial([address], PATIENT, source=source)
        peer, where = listener.accept()
        assert where[0] == "127.0.0.1"
        stream.close()
        peer.close()


def test_candidates_that_see_the_client_go_first() -> None:
    with pytest.raises(ExchangeFailed) as caught:
        dial([SocketAddress("::1", 1), SocketAddress("127.0.0.1", 1)], PATIENT, source="127.0.0.9")
    assert caught.value.detail.startswith("127.0.0.1:1:")


def test_running_out_of_descriptors_is_not_the_endpoints_fault() -> None:
    address = refused()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.closing(socket.socket()) as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        fillers = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(ExchangeFailed) as caught:
                dial([address], PATIENT)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
    assert caught.value.reason is LOCAL_LIMIT
    assert caught.value.__cause__ is not None and caught.value.__cause__.errno == errno.EMFILE


def test_a_failed_dial_leaves_no_descriptor_open() -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    address = refused()
    with contextlib.suppress(ExchangeFailed):
        dial([address], PATIENT)
    before = open_descriptors()
    for _ in range(20):
        with pytest.raises(ExchangeFailed):
            dial([address], PATIENT)
    assert open_descriptors() == before
