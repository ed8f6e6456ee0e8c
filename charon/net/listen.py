"""Listening sockets: made in the supervisor, which keeps them for as long as their listener is configured.

Each worker slot has a TCP socket of its own on the same address (SO_REUSEPORT), so that the kernel spreads connections
evenly and a slot's queue waits for the slot's next worker. A Unix socket cannot be shared out so; all slots have it.
"""

from __future__ import annotations

import errno
import os
import socket as std
import stat
from _socket import socket as RawSocket

from charon.base.errors import StartError

BACKLOG = 4096


def listen(address: str, slots: int) -> list[RawSocket]:
    """``slots`` listening sockets on ``address`` (``host:port``, ``:port``, ``[::]:port``, ``unix:/path``).

    Port 0 takes any free port, the same one for all. Raises StartError with a line for the operator.
    """
    if address.startswith("unix:"):
        sock = _listen_unix(address[5:])
        return [sock, *(_duplicate(sock) for _ in range(slots - 1))]
    host, port = _split(address)
    sockets = [_listen_tcp(address, host, port, alone=True)]
    port = sockets[0].getsockname()[1]
    sockets.extend(_listen_tcp(address, host, port, alone=False) for _ in range(slots - 1))
    return sockets


def bound_address(sock: RawSocket) -> str:
    """The address a socket really listens on, for people: ``0.0.0.0:8080``, ``[::]:8080``, ``unix:/path``."""
    name = sock.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def remove(sock: RawSocket) -> None:
    """Close a listening socket for good; a Unix socket's file goes with it."""
    name = sock.getsockname()
    sock.close()
    if isinstance(name, str) and os.path.exists(name):
        os.unlink(name)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listen_tcp(address: str, host: str, port: int, *, alone: bool) -> RawSocket:
    """``alone``: nobody else may hold the port, not even a program of ours that shares it by SO_REUSEPORT."""
    try:
        if host:
            family = std.AF_INET6 if ":" in host else std.AF_INET
            return _bind(family, (host, port), alone=alone, both=False)
        try:
            return _bind(std.AF_INET6, ("::", port), alone=alone, both=True)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
        return _bind(std.AF_INET, ("0.0.0.0", port), alone=alone, both=False)  # noqa: S104 - what `:port` promises
    except OSError as error:
        raise StartError(_why(address, error)) from error


def _bind(family: int, where: tuple[str, int], *, alone: bool, both: bool) -> RawSocket:
    if alone and where[1]:
        _socket(family, where, shared=False, both=both).close()
    return _socket(family, where, shared=True, both=both)


def _socket(family: int, where: tuple[str, int], *, shared: bool, both: bool) -> RawSocket:
    sock = RawSocket(family, std.SOCK_STREAM | std.SOCK_NONBLOCK | std.SOCK_CLOEXEC)
    try:
        sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(std.SOL_SOCKET, std.SO_REUSEPORT, 1)
        if family == std.AF_INET6:
            sock.setsockopt(std.IPPROTO_IPV6, std.IPV6_V6ONLY, not both)
        sock.bind(where)
        sock.listen(BACKLOG if shared else 1)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_unix(path: str) -> RawSocket:
    address = f"unix:{path}"
    sock = RawSocket(std.AF_UNIX, std.SOCK_STREAM | std.SOCK_NONBLOCK | std.SOCK_CLOEXEC)
    try:
        _clear_stale(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(_why(address, error)) from error
    return sock


def _clear_stale(path: str) -> None:
    """Remove the socket file of a program that is gone. Raises OSError when one still listens, or it is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    probe = RawSocket(std.AF_UNIX, std.SOCK_STREAM | std.SOCK_NONBLOCK | std.SOCK_CLOEXEC)
    try:
        code = probe.connect_ex(path)
    finally:
        probe.close()
    if code != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _duplicate(sock: RawSocket) -> RawSocket:
    return RawSocket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))


_HINTS = {
    errno.EADDRINUSE: "another program listens there; `ss -ltnp` names it",
    errno.EACCES: "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE, a Unix socket a writable folder",
    errno.EADDRNOTAVAIL: "this machine does not have that address; `ip addr` lists those it has",
    errno.EEXIST: "a file that is not a socket is in the way",
    errno.ENOENT: "the folder does not exist",
    errno.EMFILE: "no file descriptors left; raise LimitNOFILE",
}


def _why(address: str, error: OSError) -> str:
    text = os.strerror(error.errno or 0).lower()
    hint = _HINTS.get(error.errno or 0)
    return f"cannot listen on {address}: {text}" + (f" ({hint})" if hint else "")
