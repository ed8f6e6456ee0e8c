"""What HTTP and TCP listeners of a worker have in common: their connections, and how these are counted and ended."""

from __future__ import annotations

import random
from _socket import socket as RawSocket
from collections.abc import Callable
from typing import Any, Protocol

from charon.base.errors import TOO_MANY_CONNECTIONS, Reason
from charon.net.accept import Acceptor
from charon.net.stream import Stream
from charon.net.tls_stream import TlsStream
from charon.policy.drain import SPREAD, ending
from charon.proxy.introduction import introduce
from charon.proxy.listener import Listener
from charon.proxy.passthrough import Destination
from charon.proxy.plane import DataPlane
from charon.proxy.secure import shake_hands


class Connection(Protocol):
    """A client connection of any kind. ``client`` and ``port`` are its address (port 0: a Unix socket);
    ``destination`` is where it was going, where a rule of the kernel has brought it here, and ``noted`` says that it is
    counted what became of it."""

    stream: Stream
    client: str
    port: int
    destination: Destination | None
    noted: bool

    @property
    def server(self) -> ProxyServer: ...

    def handle(self) -> None:
        """Serve it until it ends. Closes its streams."""

    def refuse(self, reason: Reason) -> None:
        """Turn it away. Closes its stream."""

    def abort(self) -> None:
        """End it wherever it is: its time to drain is over."""


class ProxyServer(Acceptor):
    """A listener's socket in this worker. ``listener`` is swapped as a whole when a snapshot changes it.

    ``home`` is the worker slot that the socket belongs to, ``of`` how many sockets or slots share the listener.
    """

    def __init__(
        self,
        fd: int,
        listener: Listener,
        plane: DataPlane,
        max_connections: int,
        on_accept_error: Callable[[OSError], None],
        **options: Any,
    ) -> None:
        self.listener = listener
        self.plane = plane
        self.counters = plane.metrics.listener(listener.name)
        self.connections: set[Any] = set()
        self.retired_at: float | None = None
        self.home = 0
        self.of = 1
        super().__init__(fd, max_connections, on_accept_error, plane.guard.capacity, **options)

    @property
    def draining(self) -> bool:
        """Whether connections are to end after what they are doing: Charon is stopping, or the listener has left."""
        return self.plane.draining or self.retired_at is not None

    def make(self, sock: RawSocket, address: Any) -> Connection:
        """The connection object for an accepted socket."""
        raise NotImplementedError

    def stream(self, sock: RawSocket) -> Stream:
        """The stream of an accepted socket: under TLS where the listener says so."""
        return Stream(sock) if self.listener.tls is None else TlsStream(sock)

    def handle(self, sock: RawSocket, address: Any) -> None:
        """Serve one client connection from accept to close; runs in a greenlet of its own."""
        connection = self.make(sock, address)
        self.connections.add(connection)
        self.counters.accepted()
        self.counters.connections += 1
        limit = self.listener.max_per_client
        tls = self.listener.tls
        counted: float | None = None
        try:
            if not self.listener.unannounced and not introduce(self, connection):
                return
            if limit is not None:
                counted = self.plane.sharing.connections.open(self.listener.name, connection.client, limit)
            if limit is not None and counted is None:
                connection.refuse(TOO_MANY_CONNECTIONS)
            elif tls is None or shake_hands(self, connection, tls):
                connection.handle()
        finally:
            connection.stream.close()
            if counted is not None:
                self.plane.sharing.connections.close(counted)
            self.connections.discard(connection)
            self.counters.connections -= 1
            self._count_bytes(connection.stream)

    def count_bytes(self) -> None:
        """Add what open connections have moved so far to the counters, so that long ones are seen while they last."""
        for connection in self.connections:
            self._count_bytes(connection.stream)

    def _count_bytes(self, stream: Stream) -> None:
        self.counters.moved(stream.received - stream.received_counted, stream.sent - stream.sent_counted)
        stream.received_counted = stream.received
        stream.sent_counted = stream.sent

    def sweep(self, now: float) -> None:
        """Look after what the connections' own greenlets cannot see; called a few times a second."""

    def close_idle(self) -> None:
        """End the connections that have nothing under way."""

    def endless(self) -> list[Any]:
        """The connections that may go on for ever, by what they are doing now."""
        raise NotImplementedError

    def end_some(self, elapsed: float, timeout: float, step: float) -> int:
        """End as many of the endless connections as it is time for, ``elapsed`` of ``timeout`` seconds after draining
        began; called every ``step`` seconds. All others may go on until the timeout. Returns how many it has ended."""
        if elapsed < timeout * (1 - SPREAD):
            return 0
        endless = self.endless()
        count = ending(len(endless), elapsed, timeout, step, random.random())  # noqa: S311 - no secret
        for connection in random.sample(endless, count):
            connection.abort()
        return count

    def abort_all(self) -> None:
        """End all connections: their time to drain is over."""
        for connection in tuple(self.connections):
            connection.abort()
