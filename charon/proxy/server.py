"""What HTTP and TCP listeners of a worker have in common: their connections, and how these are counted and ended."""

from __future__ import annotations

from _socket import socket as RawSocket
from collections.abc import Callable
from typing import Any, Protocol

from charon.base.errors import TOO_MANY_CONNECTIONS, Reason
from charon.net.accept import Acceptor
from charon.net.stream import Stream
from charon.proxy.listener import Listener
from charon.proxy.plane import DataPlane


class Connection(Protocol):
    """A client connection of either kind."""

    stream: Stream
    client: str

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
        super().__init__(fd, max_connections, on_accept_error, **options)

    @property
    def draining(self) -> bool:
        """Whether connections are to end after what they are doing: Charon is stopping, or the listener has left."""
        return self.plane.draining or self.retired_at is not None

    def make(self, sock: RawSocket, address: Any) -> Connection:
        """The connection object for an accepted socket."""
        raise NotImplementedError

    def handle(self, sock: RawSocket, address: Any) -> None:
        """Serve one client connection from accept to close; runs in a greenlet of its own."""
        connection = self.make(sock, address)
        self.connections.add(connection)
        self.counters.accepted += 1
        self.counters.connections += 1
        limit = self.listener.max_per_client
        counted: float | None = None
        try:
            if limit is not None:
                counted = self.plane.sharing.connections.open(self.listener.name, connection.client, limit)
            if limit is None or counted is not None:
                connection.handle()
            else:
                connection.refuse(TOO_MANY_CONNECTIONS)
        finally:
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
        self.counters.received_bytes += stream.received - stream.received_counted
        self.counters.sent_bytes += stream.sent - stream.sent_counted
        stream.received_counted = stream.received
        stream.sent_counted = stream.sent

    def sweep(self, now: float) -> None:
        """Look after what the connections' own greenlets cannot see; called a few times a second."""

    def close_idle(self) -> None:
        """End the connections that have nothing under way."""

    def abort_all(self) -> None:
        """End all connections: their time to drain is over."""
        for connection in tuple(self.connections):
            connection.abort()
