"""Listening sockets: made in the supervisor, which keeps them for as long as their listener is configured.

Each worker slot has a TCP socket of its own on the same address (SO_REUSEPORT), so that the kernel spreads connections
evenly and a slot's queue waits for the slot's next worker. A Unix socket cannot be shared out so; all slots have it.
The same goes for a TCP socket that came from outside without SO_REUSEPORT.
"""

from __future__ import annotations

import errno
import os
import socket as std
import stat
from _socket import socket as RawSocket
from ipaddress import ip_address

from charon.base.errors import StartError

BACKLOG = 4096

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
"""<linux/in.h> and <linux/in6.h>, which the socket module does not have."""


def listen(address: str, slots: int) -> list[RawSocket]:
    """``slots`` listening sockets on ``address`` (``host:port``, ``:port``, ``[::]:port``, ``unix:/path``).

    Port 0 takes any free port, the same one for all. Raises StartError with a line for the operator.
    """
    if address.startswith("unix:"):
        return [_listen_unix(address[5:])]
    host, port = _split(address)
    return widen([_listen_tcp(address, host, port)], slots)


def widen(sockets: list[RawSocket], slots: int) -> list[RawSocket]:
    """``sockets``, which share an address, and as many more as there are slots without one, where that is possible.

    Raises StartError.
    """
    first = sockets[0]
    if first.family == std.AF_UNIX or not first.getsockopt(std.SOL_SOCKET, std.SO_REUSEPORT):
        return sockets
    both = first.family == std.AF_INET6 and not first.getsockopt(std.IPPROTO_IPV6, std.IPV6_V6ONLY)
    where = first.getsockname()[:2]
    more: list[RawSocket] = []
    try:
        while len(sockets) + len(more) < slots:
            more.append(_socket(first.family, where, shared=True, both=both))
    except OSError as error:
        for sock in more:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            return sockets  # another user has bound it (systemd, say): it can only be used by all slots together
        raise StartError(_why(bound_address(first), error)) from error
    return sockets + more


def adopt(fd: int) -> RawSocket:
    """A listening socket that came from another process. Raises StartError when it is none."""
    try:
        sock = RawSocket(fileno=fd)
        listening = sock.type == std.SOCK_STREAM and sock.getsockopt(std.SOL_SOCKET, std.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"descriptor {fd} that was handed on is no socket: {error.strerror}") from error
    if not listening:
        raise StartError(f"descriptor {fd} that was handed on is no listening stream socket")
    sock.setblocking(False)
    os.set_inheritable(fd, False)
    return sock


def listens_on(sock: RawSocket, address: str) -> bool:
    """Whether ``sock`` is bound to what a configuration calls ``address`` (port 0 is never it)."""
    name = sock.getsockname()
    if isinstance(name, (str, bytes)):
        return address == f"unix:{os.fsdecode(name)}"
    if address.startswith("unix:"):
        return False
    host, port = _split(address)
    if port == 0 or name[1] != port:
        return False
    return name[0] in ("::", "0.0.0.0") if not host else ip_address(host) == ip_address(name[0])  # noqa: S104 - compared


def accept_all_destinations(sock: RawSocket) -> None:
    """From now on the kernel may give ``sock`` connections that were made to other addresses, as far as its rules do.

    Raises StartError without CAP_NET_ADMIN.
    """
    six = sock.family == std.AF_INET6
    try:
        sock.setsockopt(*((std.IPPROTO_IPV6, IPV6_TRANSPARENT) if six else (std.IPPROTO_IP, IP_TRANSPARENT)), 1)
    except OSError as error:
        why = "not permitted; it takes root or CAP_NET_ADMIN" if error.errno == errno.EPERM else error.strerror
        raise StartError(f"cannot take connections to other addresses on {bound_address(sock)}: {why}") from error


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


def _listen_tcp(address: str, host: str, port: int) -> RawSocket:
    """Nobody else may hold the port, not even a program of ours that shares it by SO_REUSEPORT."""
    try:
        if host:
            family = std.AF_INET6 if ":" in host else std.AF_INET
            return _bind(family, (host, port), both=False)
        try:
            return _bind(std.AF_INET6, ("::", port), both=True)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
        return _bind(std.AF_INET, ("0.0.0.0", port), both=False)  # noqa: S104 - what `:port` promises
    except OSError as error:
        raise StartError(_why(address, error)) from error


def _bind(family: int, where: tuple[str, int], *, both: bool) -> RawSocket:
    if where[1]:
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
