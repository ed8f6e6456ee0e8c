"""The TCP listener of a worker: each connection is joined to an endpoint of one service."""

from __future__ import annotations

from _socket import socket as RawSocket
from time import monotonic
from typing import Any

from charon.base.errors import DRAINING, INTERNAL, NO_ENDPOINT, UNKNOWN_SERVICE, ExchangeFailed, Reason
from charon.base.names import NO_UPSTREAM, Event
from charon.net.accept import peer_ip
from charon.net.relay import Relay
from charon.net.stream import Stream
from charon.net.tasks import rename
from charon.proxy.endpoint import Endpoint
from charon.proxy.listener import Listener
from charon.proxy.server import ProxyServer
from charon.telemetry.metrics import OK


class TcpConnection:
    """One relayed connection. ``upstream`` and ``relay`` are there once an endpoint has accepted it."""

    def __init__(self, sock: RawSocket, address: Any, server: TcpServer) -> None:
        self.server = server
        self.stream = Stream(sock)
        self.client = peer_ip(address)
        self.endpoint: Endpoint | None = None
        self.upstream: Stream | None = None
        self.relay: Relay | None = None

    def handle(self) -> None:
        """Carry the connection until it ends, then record it."""
        start = monotonic()
        listener = self.server.listener
        reason: Reason | None = None
        detail = ""
        rename(f"tcp {listener.name} {self.client}")
        try:
            self._carry(listener)
            if self.relay is not None:
                reason, detail = self.relay.reason, self.relay.detail
        except ExchangeFailed as failure:
            reason, detail = failure.reason, failure.detail
        except Exception as error:  # noqa: BLE001 - a fault of ours must cost one connection, not the worker
            reason, detail = INTERNAL, repr(error)
            self.server.plane.events.error(Event.INTERNAL_ERROR, exc=error, listener=listener.name)
        finally:
            self._record(listener, monotonic() - start, reason, detail)

    def abort(self) -> None:
        if self.relay is not None:
            self.relay.end(DRAINING, "drain timeout")

    def _carry(self, listener: Listener) -> None:
        self.endpoint, self.upstream = self._connect(listener)
        self.endpoint.in_flight += 1
        try:
            self.relay = Relay(self.stream, self.upstream, listener.timeouts.idle)
            self.relay.run(f"tcp {listener.name} {self.client} up")
        finally:
            self.endpoint.in_flight -= 1

    def _connect(self, listener: Listener) -> tuple[Endpoint, Stream]:
        """A connection to the first endpoint that accepts one. Raises ExchangeFailed."""
        service = self.server.plane.service(listener.default_service or "")
        if service is None or not service.known:
            raise ExchangeFailed(UNKNOWN_SERVICE, listener.default_service or "")
        tried: list[Endpoint] = []
        failure = ExchangeFailed(NO_ENDPOINT, service.name)
        while True:
            endpoint = service.pick(tried)
            if endpoint is None:
                raise failure
            self.endpoint = endpoint
            try:
                return endpoint, endpoint.dial(listener.timeouts.connect)
            except ExchangeFailed as error:
                failure = error
                self.server.plane.events.warning(
                    Event.UPSTREAM_ERROR,
                    service=service.name,
                    upstream=endpoint.name,
                    reason=error.reason.word,
                    error=error.detail,
                    tries=len(tried) + 1,
                )
                tried.append(endpoint)

    def _record(self, listener: Listener, seconds: float, reason: Reason | None, detail: str) -> None:
        """Close both sides, so that a failure looks like one, and account for the connection."""
        streams = [stream for stream in (self.stream, self.upstream) if stream is not None]
        for stream in streams:
            if reason is None:
                stream.close()
            else:
                stream.reset()  # an orderly end would tell the peer that it has everything
        plane = self.server.plane
        upstream = self.endpoint.name if self.endpoint is not None else NO_UPSTREAM
        word = reason.word if reason is not None else None
        plane.metrics.tcp_connection(listener.name, upstream, word or OK, seconds)
        if listener.access_log:
            plane.access_log.tcp(
                listener.name, self.client, upstream, seconds, self.stream.received, self.stream.sent, word
            )


class TcpServer(ProxyServer):
    """A TCP listener in this worker. Each of its connections has until the drain timeout; none is ever idle."""

    def handle(self, sock: RawSocket, address: Any) -> None:
        connection = TcpConnection(sock, address, self)
        self.opened(connection)
        try:
            connection.handle()
        finally:
            self.ended(connection)

    def sweep(self, now: float) -> None:
        for connection in tuple(self.connections):
            if connection.relay is not None:
                connection.relay.notice_departure()
