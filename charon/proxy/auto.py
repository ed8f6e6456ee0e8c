"""The listener that looks at the first bytes: HTTP/1 is served as on an HTTP listener, all else is relayed.

Trust: a client can choose how it is treated by what it sends, among the two ways that the listener offers; ``access``,
limits and what the listener leads to are the same for both.
"""

from __future__ import annotations

from _socket import socket as RawSocket
from time import monotonic
from typing import Any

from charon.base.errors import ExchangeFailed, Reason
from charon.net.deadlines import NEVER
from charon.net.stream import DeadlineExceeded
from charon.proxy.http import HttpConnection, HttpServer
from charon.proxy.tcp import TcpConnection
from charon.wire.detect import PLAIN, Protocol, detect

_OPEN = (Protocol.UNDECIDED, Protocol.HTTP1_BEGUN)


class AutoConnection(HttpConnection):
    """One client connection: an HTTP one until its first bytes say otherwise. ``tcp`` is what it then is."""

    tcp: TcpConnection | None = None

    def handle(self) -> None:
        """Look at the first bytes, and serve the connection until it ends."""
        listener = self.server.listener
        destination = self.destination
        protocol = Protocol.HTTP1
        try:
            if destination is not None and destination[1] in listener.opaque_ports:
                protocol = Protocol.TCP
            else:
                data = self.buffer = self.stream.read_later(listener.timeouts.detect)
                if not data.startswith(PLAIN):  # what nearly all HTTP connections begin with costs no more than this
                    protocol = self._look(data)
        except DeadlineExceeded:
            protocol = Protocol.TCP  # it waits for the server to speak
        except (ExchangeFailed, OSError):
            self.stream.close()  # it has gone, or Charon is stopping: nothing has begun
            return
        if protocol is Protocol.HTTP1:
            super().handle()
            return
        self.idle = False  # nobody waits for one more request on it
        self.tcp = self._as_tcp()
        self.tcp.looks_for_name = protocol is Protocol.TLS
        self.tcp.handle()

    def _as_tcp(self) -> TcpConnection:
        tcp = TcpConnection(self.stream, self.client, self.port, self.server)
        tcp.destination, tcp.noted = self.destination, self.noted
        tcp.early, self.buffer = self.buffer, b""
        return tcp

    def _look(self, data: bytes) -> Protocol:
        """What the client speaks that has sent ``data``; ``buffer`` is what has been read. Raises ExchangeFailed or
        OSError."""
        protocol = detect(data)
        if protocol not in _OPEN:
            return protocol
        now, timeouts = monotonic(), self.server.listener.timeouts
        return self._look_on(protocol, now + timeouts.detect, now + timeouts.client_header)

    def _look_on(self, protocol: Protocol, soon: float, late: float) -> Protocol:
        """The first bytes leave it open: read more, until ``soon``, or ``late`` where it looks like HTTP."""
        stream = self.stream
        try:
            while protocol in _OPEN:
                stream.cutoff = soon if protocol is Protocol.UNDECIDED else late
                more = stream.read(NEVER)
                if not more:
                    return Protocol.TCP  # it has said all it will
                self.buffer += more
                protocol = detect(self.buffer)
        except DeadlineExceeded:
            return Protocol.TCP if protocol is Protocol.UNDECIDED else Protocol.HTTP1
        finally:
            stream.cutoff = NEVER
        return protocol

    def refuse(self, reason: Reason) -> None:
        """Turn the client away. What it speaks is not known, so it is told nothing."""
        self._as_tcp().refuse(reason)

    def abort(self) -> None:
        if self.tcp is not None:
            self.tcp.abort()
        else:
            super().abort()


class AutoServer(HttpServer):
    """A listener in this worker that looks at the first bytes."""

    handler_class = AutoConnection

    def make(self, sock: RawSocket, address: Any) -> AutoConnection:
        return AutoConnection(sock, address, self)

    def endless(self) -> list[HttpConnection]:
        relayed = [c for c in self.connections if c.tcp is not None and c.tcp.relay is not None]
        return [*super().endless(), *relayed]

    def sweep(self, now: float) -> None:
        super().sweep(now)
        for connection in tuple(self.connections):
            if connection.tcp is not None:
                connection.tcp.notice_departure()
