"""What stands before the first byte of a connection's own: who it is really from, and where it was going."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from charon.base.errors import BAD_PROXY_HEADER, CLIENT_ABORT, BadMessage, ExchangeFailed
from charon.base.names import Event
from charon.net.deadlines import NEVER
from charon.net.original import local_address
from charon.net.stream import DeadlineExceeded, Stream
from charon.proxy.intercepted import find_destination
from charon.wire.proxy_protocol import Header, Peers, header, parse

if TYPE_CHECKING:
    from charon.proxy.server import Connection, ProxyServer

_START = 15
"""Bytes that the shortest header has."""


def introduce(server: ProxyServer, connection: Connection) -> bool:
    """Whether ``connection`` may go on. One that may not has been told of, and only has to be closed."""
    listener = server.listener
    if listener.direction is not None and not find_destination(server, connection):
        return False
    if not listener.proxies.trusts(connection.client):
        return True
    try:
        found = _read(connection.stream, listener.timeouts.client_header)
    except BadMessage as bad:
        detail = bad.detail
    except DeadlineExceeded:
        detail = "no header in time"
    except ExchangeFailed as failure:
        if failure.reason is not CLIENT_ABORT:
            return False  # Charon is stopping
        detail = failure.detail
    except OSError as error:
        detail = str(error)
    else:
        if found.peers is not None:
            connection.client, connection.port = found.peers.source, found.peers.source_port
        return True
    if server.plane.may_tell(f"proxy {listener.name}", monotonic()):
        reason = BAD_PROXY_HEADER.word
        server.plane.events.warning(
            Event.PROXY_HEADER_REFUSED, listener=listener.name, reason=reason, client=connection.client, error=detail
        )
    return False


def _read(stream: Stream, patience: float) -> Header:
    """The header, and not a byte more. It comes before TLS: so it is read from the socket itself."""
    stream.cutoff = monotonic() + patience
    data = b""
    found: Header | int = _START
    while not isinstance(found, Header):
        more = Stream.read(stream, NEVER, found)
        if not more:
            raise ExchangeFailed(CLIENT_ABORT, "closed before its PROXY header")
        data += more
        found = parse(data)
    stream.cutoff = NEVER
    stream.received -= len(data)  # the proxy's, not the client's
    return found


def hello(connection: Connection, version: int) -> bytes:
    """The PROXY header of ``version`` that tells an endpoint of ``connection``; ``b""`` for version 0."""
    if not version:
        return b""
    peers = None
    if connection.port:
        try:
            host, port = connection.destination or local_address(connection.stream.sock)
            peers = Peers(connection.client, connection.port, host, port)
        except (OSError, ValueError):
            pass  # it is gone, or came over a Unix socket: there is no address that it was made to
    return header(version, peers)
