"""Network namespaces: two hosts on one machine, joined by a cable of their own. Takes root and iproute2."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

available = os.geteuid() == 0 and shutil.which("ip") is not None


class Host:
    """A network namespace with the address ``ip``, and its own loopback."""

    def __init__(self, name: str, ip: str) -> None:
        self.name = name
        self.ip = ip
        self.prefix = ["ip", "netns", "exec", name]
        """What makes a command run there."""

    def run(self, function: Callable[[], T]) -> T:
        """``function()``, whose sockets are made there; they may be used anywhere."""
        results: list[T] = []
        errors: list[BaseException] = []

        def there() -> None:
            fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                if _libc.setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
                errors.append(error)
            finally:
                os.close(fd)

        thread = threading.Thread(target=there)  # a namespace belongs to a thread
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other and nothing else."""
    mark = f"charon-{os.getpid()}"
    hosts = Host(f"{mark}-a", "10.77.0.1"), Host(f"{mark}-b", "10.77.0.2")
    made = []
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            made.append(host)
        one, other = hosts
        _ip("link", "add", "cable", "netns", one.name, "type", "veth", "peer", "name", "cable", "netns", other.name)
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.ip}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", host.name, "link", "set", device, "up")
        yield hosts
    finally:
        for host in made:
            _ip("netns", "delete", host.name)  # the cable goes with its ends
