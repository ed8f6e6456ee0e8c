"""Opening a connection to an endpoint, within one deadline, trying its candidate addresses in order."""

from __future__ import annotations

import errno
import os
import socket as std
from _socket import socket as RawSocket
from collections.abc import Callable, Sequence
from time import monotonic

from charon.base.errors import (
    CONNECT_FAILED,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    LOCAL_LIMIT,
    UPSTREAM_IDENTITY,
    UPSTREAM_TLS_FAILED,
    ExchangeFailed,
)
from charon.config.interception import HIGHEST_KEPT_PORT
from charon.config.snapshot import SocketAddress
from charon.net.listen import IP_TRANSPARENT, IPV6_TRANSPARENT
from charon.net.stream import DeadlineExceeded, Stream
from charon.net.tls import EndpointTls
from charon.net.tls_failures import TlsError
from charon.net.tls_stream import TlsStream

# Failures that say something about this machine, not about the endpoint.
_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN})


_IP_BIND_ADDRESS_NO_PORT = 24  # <linux/in.h>; both families have it there

Watch = Callable[[Stream], None]
"""Told of each connection that is begun, so that somebody else can end the wait for it (``Stream.interrupt``)."""


_mark = 0


def mark_connections(mark: int) -> None:
    """Have all connections that this process opens bear ``mark`` (SO_MARK) for the kernel's rules; 0: none.

    Raises OSError where this process may not.
    """
    global _mark
    if mark != _mark and mark:
        probe = RawSocket(std.AF_INET, std.SOCK_STREAM | std.SOCK_CLOEXEC)
        try:
            probe.setsockopt(std.SOL_SOCKET, std.SO_MARK, mark)
        finally:
            probe.close()
    _mark = mark


def dial(
    candidates: Sequence[SocketAddress],
    timeout: float,
    watch: Watch | None = None,
    tls: EndpointTls | None = None,
    hello: bytes = b"",
    source: str = "",
) -> Stream:
    """Connect to the first candidate that accepts, within ``timeout`` seconds for all of them together.

    ``hello`` is said first of all, before TLS. With ``tls`` the time includes the handshake, and that the peer is who
    it should be. ``source`` is an IP literal that programs at loopback addresses are to see as their peer, for which
    the kernel has to have the rule of charon.intercept.routing. Raises ExchangeFailed with the reason of the first
    failure: the candidates are in order of preference.
    """
    if source:
        candidates = sorted(candidates, key=lambda address: not _can_see(address, source))
    cutoff = monotonic() + timeout
    failure: ExchangeFailed | None = None
    for position, address in enumerate(candidates):
        left = cutoff - monotonic()
        # A silent candidate may not use up the time of those after it.
        share = left / (len(candidates) - position)
        try:
            return _dial_one(address, share, watch, tls, hello, source)
        except DeadlineExceeded:
            failure = failure or ExchangeFailed(CONNECT_TIMEOUT, f"no answer from {_text(address)} in {timeout:g} s")
        except TlsError as error:
            reason = UPSTREAM_IDENTITY if error.word == "wrong_identity" else UPSTREAM_TLS_FAILED
            failure = failure or ExchangeFailed(reason, f"{_text(address)}: {error.word}: {error.detail}")
        except OSError as error:
            if error.errno in _LOCAL:
                raise ExchangeFailed(LOCAL_LIMIT, os.strerror(error.errno)) from error
            reason = CONNECT_REFUSED if error.errno == errno.ECONNREFUSED else CONNECT_FAILED
            failure = failure or ExchangeFailed(reason, f"{_text(address)}: {os.strerror(error.errno or 0)}")
    try:
        raise failure or ExchangeFailed(CONNECT_FAILED, "the endpoint has no address")
    finally:
        failure = None  # or this frame and the failure's traceback would hold each other


def _dial_one(
    address: SocketAddress, timeout: float, watch: Watch | None, tls: EndpointTls | None, hello: bytes, source: str
) -> Stream:
    began = monotonic()
    target: str | tuple[str, int] = address.host
    if address.is_unix:
        family = std.AF_UNIX
    else:
        family = std.AF_INET6 if ":" in address.host else std.AF_INET
        target = (address.host, address.port)
    sock = RawSocket(family, std.SOCK_STREAM | std.SOCK_NONBLOCK | std.SOCK_CLOEXEC)
    stream = Stream(sock) if tls is None else TlsStream(sock)
    try:
        if _mark and not address.is_unix:
            sock.setsockopt(std.SOL_SOCKET, std.SO_MARK, _mark)
        if source and _can_see(address, source):
            _come_from(sock, source)
        code = sock.connect_ex(target)
        if watch is not None and (code == errno.EINPROGRESS or tls is not None):
            watch(stream)
        if code == errno.EINPROGRESS:
            stream.write_ready(timeout)
            code = sock.getsockopt(std.SOL_SOCKET, std.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if not address.is_unix:
            sock.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)
            sock.setsockopt(std.SOL_SOCKET, std.SO_KEEPALIVE, 1)
        if hello:
            Stream.write(stream, hello, timeout - (monotonic() - began))
            stream.sent = stream.sent_counted = 0
        if tls is not None:
            assert isinstance(stream, TlsStream)
            stream.connect(tls, timeout - (monotonic() - began))
    except BaseException:
        stream.close()
        raise
    return stream


def _can_see(address: SocketAddress, source: str) -> bool:
    """Whether answers from ``address`` to ``source`` come back here: from a program on this host, on a port below those
    of clients. A link-local address means nothing without its interface."""
    if ":" in source:
        return address.host == "::1" and address.port <= HIGHEST_KEPT_PORT and not source.startswith("fe80:")
    return address.host.startswith("127.") and address.port <= HIGHEST_KEPT_PORT


def _come_from(sock: RawSocket, source: str) -> None:
    """Have ``sock`` connect from an address that is another's, with a port that is free for that connection."""
    if ":" in source:
        sock.setsockopt(std.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(std.IPPROTO_IP, IP_TRANSPARENT, 1)
    sock.setsockopt(std.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((source, 0))


def _text(address: SocketAddress) -> str:
    if address.is_unix:
        return address.host
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
