"""Hosts of a test's own: network namespaces joined by a cable, each with a kernel's rules and addresses of its own."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest

from tests.harness import PATIENCE

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)

available = os.geteuid() == 0 and shutil.which("ip") is not None


def need_interception() -> None:
    """Skip the test where this machine has no way to run it."""
    if not available:
        pytest.skip("network namespaces take root and iproute2")
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed")
    made = subprocess.run(
        ["ip", "netns", "add", f"charon-test-probe-{os.getpid()}"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", f"charon-test-probe-{os.getpid()}"], check=True)


@dataclass(frozen=True)
class Host:
    """One namespace. ``ip`` and ``ip6`` are its addresses on the cable."""

    name: str
    ip: str
    ip6: str

    @property
    def prefix(self) -> list[str]:
        """What runs a command there."""
        return ["ip", "netns", "exec", self.name]

    def command(self, *command: str, user: int | None = None, text: str | None = None, check: bool = True) -> str:
        """The standard output of a command that is run there, as ``user``. AssertionError when it fails."""
        done = subprocess.run(
            [*self.prefix, *as_user(user), *command],
            input=None if text is None else text.encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        out = done.stdout.decode()
        assert not check or done.returncode == 0, f"{command} exits with {done.returncode}: {done.stderr!r}\n{out}"
        return out

    def nft(self, text: str) -> None:
        """Have ``text`` in force there."""
        self.command("nft", "-f", "-", text=text)

    def rules(self) -> str:
        """Everything that its kernel has."""
        return self.command("nft", "list", "ruleset")

    def run(self, function: Callable[[], T]) -> T:
        """``function()``, whose sockets are made there; they may be used anywhere."""
        with self.inside():
            return function()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes in the block are that host's for as long as they live."""
        before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)
            os.close(there)


def as_user(user: int | None) -> list[str]:
    """What runs a command as another user."""
    return [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts, ``a`` and ``b``, and a cable between them; gone at the end of the block."""
    own = f"{os.getpid()}-{next(_numbers)}"
    left = Host(f"charon-test-{own}-a", "10.77.0.1", "fd77::1")
    right = Host(f"charon-test-{own}-b", "10.77.0.2", "fd77::2")
    with ExitStack() as stack:
        for host in (left, right):
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "del", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        _join(left, right)
        yield left, right


def reboot(host: Host, other: Host) -> None:
    """``host``, which has a cable to ``other``, with a kernel that knows nothing any more. What runs there has to be
    ended before; sockets that are left over are of the world before."""
    _ip("-n", host.name, "link", "del", "cable")
    _ip("netns", "del", host.name)
    _ip("netns", "add", host.name)
    _ip("-n", host.name, "link", "set", "lo", "up")
    _join(host, other)


def _join(left: Host, right: Host) -> None:
    _ip("link", "add", "cable", "netns", left.name, "type", "veth", "peer", "name", "cable", "netns", right.name)
    for host in (left, right):
        _ip("-n", host.name, "addr", "add", f"{host.ip}/24", "dev", "cable")
        _ip("-n", host.name, "addr", "add", f"{host.ip6}/64", "dev", "cable", "nodad")
        _ip("-n", host.name, "link", "set", "cable", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
