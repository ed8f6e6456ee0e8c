"""The TCP listener of a worker: each connection is joined to an endpoint of one service."""

from __future__ import annotations

from _socket import socket as RawSocket
from time import monotonic
from typing import Any

from charon.base.errors import (
    CLIENT_ABORT,
    DRAINING,
    IDENTITY_DENIED,
    INTERNAL,
    NO_ROUTE,
    OVERLOADED,
    RATE_LIMITED,
    REQUEST_TIMEOUT,
    UNKNOWN_SERVICE,
    BadMessage,
    Blame,
    ExchangeFailed,
    Reason,
)
from charon.base.names import NO_UPSTREAM, Event, Metric
from charon.net.accept import peer_ip, peer_port, why
from charon.net.deadlines import NEVER
from charon.net.relay import Relay
from charon.net.stream import DeadlineExceeded, Stream
from charon.net.tasks import rename
from charon.net.tls_stream import TlsStream
from charon.policy.hashing import hash_key
from charon.proxy.endpoint import Endpoint
from charon.proxy.intercepted import service_for, text
from charon.proxy.introduction import hello
from charon.proxy.listener import Listener
from charon.proxy.passthrough import Destination
from charon.proxy.route import Route
from charon.proxy.server import ProxyServer
from charon.proxy.service import Service
from charon.telemetry.metrics import OK
from charon.wire.client_hello import parse_client_hello


class TcpConnection:
    """One relayed connection.

    ``early`` is what has been read from the client already, ``looks_for_name`` whether that may be TLS. ``dialing`` is
    a connection that is being waited for; ``upstream`` and ``relay`` are there once there is one.
    """

    def __init__(self, stream: Stream, client: str, port: int, server: ProxyServer) -> None:
        self.server = server
        self.stream = stream
        self.identity: str | None = None
        self.client = client
        self.port = port
        self.destination: Destination | None = None
        self.noted = False
        self.early = b""
        self.looks_for_name = True
        self.endpoint: Endpoint | None = None
        self.dialing: Stream | None = None
        self.upstream: Stream | None = None
        self.relay: Relay | None = None

    def handle(self) -> None:
        """Carry the connection until it ends, then record it."""
        start = monotonic()
        listener = self.server.listener
        reason: Reason | None = None
        rename(f"tcp {listener.name} {self.client}")
        try:
            guard = self.server.plane.guard
            if guard.shedding and guard.sheds():
                raise ExchangeFailed(OVERLOADED, "the worker has more to do than it can")
            if isinstance(self.stream, TlsStream) and self.stream.peer_identity is not None:
                self.identity = self.stream.peer_identity.spiffe
            self._admit(listener)
            self._limit(listener, start)
            self._carry(listener)
            if self.relay is not None:
                reason = self.relay.reason
        except ExchangeFailed as failure:
            reason = failure.reason
            failure.__traceback__ = failure.__context__ = None  # its frames hold it, and all that they know
        except Exception as error:  # noqa: BLE001 - a fault of ours must cost one connection, not the worker
            reason = INTERNAL
            self.server.plane.events.error(Event.INTERNAL_ERROR, exc=error, listener=listener.name)
        finally:
            self._record(listener, monotonic() - start, reason)

    def abort(self) -> None:
        if self.relay is not None:
            self.relay.end(DRAINING, "drain timeout")
        elif self.dialing is not None:
            self.dialing.interrupt(ExchangeFailed(DRAINING, "drain timeout"))
        else:
            self.stream.interrupt(ExchangeFailed(DRAINING, "drain timeout"))

    def notice_departure(self) -> None:
        """Called by the sweep: end what goes on for a client that has reset its connection."""
        if self.relay is not None:
            self.relay.notice_departure()
        elif self.dialing is not None and self.stream.reset_by_peer():
            self.dialing.interrupt(ExchangeFailed(CLIENT_ABORT, "reset while an upstream was dialled"))

    def _dial(self, stream: Stream) -> None:
        self.dialing = stream

    def refuse(self, reason: Reason) -> None:
        self._record(self.server.listener, 0.0, reason)

    def _admit(self, listener: Listener) -> None:
        """Raises ExchangeFailed for an identity that the listener does not let in."""
        if listener.access is not None and not listener.access.allows(self.identity):
            self.server.plane.metrics.count(Metric.AUTHORIZATION_DENIED, (listener.name, ""))
            raise ExchangeFailed(IDENTITY_DENIED, self.identity or "no identity")

    def _limit(self, listener: Listener, now: float) -> None:
        """Connections per second. Raises ExchangeFailed when there have been enough."""
        limiter = listener.limiter
        if limiter is None:
            return
        key = self.client.encode() if limiter.spec.key == "client_ip" else b""
        if not limiter.take(key, now).allowed:
            self.server.plane.rate_limited(limiter.spec.name, self.client, now)
            raise ExchangeFailed(RATE_LIMITED, limiter.spec.name)

    def _carry(self, listener: Listener) -> None:
        service = self._service(listener)
        timeouts = listener.timeouts_for(service.spec.timeouts, None)
        self._connect(service, timeouts.connect)
        assert self.endpoint is not None
        assert self.upstream is not None
        self.endpoint.in_flight += 1
        try:
            self.relay = Relay(self.stream, self.upstream, timeouts.idle, self.early)
            self.relay.run(f"tcp {listener.name} {self.client} up")
        finally:
            self.endpoint.in_flight -= 1
            service.done(self.endpoint)

    def _service(self, listener: Listener) -> Service:
        """What the connection is carried to. Raises ExchangeFailed."""
        found: Route | None = None
        server_name: str | None = None
        if not listener.server_names.empty and self.looks_for_name:
            server_name = self._server_name(listener)
            found = listener.server_names.match(server_name.encode("ascii"), b"/") if server_name else None
        named = None if found is None else found.service
        if self.destination is not None:
            return service_for(self, listener, named)
        name = named or listener.default_service
        if name is None:
            raise ExchangeFailed(NO_ROUTE, server_name or "no server name")
        service = self.server.plane.service(name)
        if service is None or not service.known:
            raise ExchangeFailed(UNKNOWN_SERVICE, name)
        return service

    def _server_name(self, listener: Listener) -> str | None:
        """The server name that the client's TLS begins with; all that is read to find it is ``early``.

        Raises ExchangeFailed.
        """
        stream = self.stream
        stream.cutoff = monotonic() + listener.timeouts.tls_handshake
        try:
            while True:
                found = parse_client_hello(self.early)
                if found is not None:
                    return found.server_name
                more = stream.read_later(NEVER)
                if not more:
                    raise ExchangeFailed(CLIENT_ABORT, "closed before its server name")
                self.early += more
        except DeadlineExceeded:
            raise ExchangeFailed(REQUEST_TIMEOUT, "no server name in time") from None
        except BadMessage as bad:
            raise ExchangeFailed(bad.reason, bad.detail) from None
        except OSError as error:
            raise ExchangeFailed(CLIENT_ABORT, why(error)) from None
        finally:
            stream.cutoff = NEVER

    def _connect(self, service: Service, timeout: float) -> None:
        """Connect to the first endpoint that accepts. Raises ExchangeFailed when none does.

        For a relay a connection is all the evidence there is: what goes over it later is not ours to judge.
        """
        tried: list[Endpoint] = []
        failure: ExchangeFailed | None = None
        key = hash_key(self.client.encode()) if service.hashes else None
        opening = hello(self, service.spec.proxy_header)
        source = self.client if self.server.listener.keeps_client else ""
        while self.upstream is None:
            try:
                endpoint, trial = service.choose(tried, key)
            except ExchangeFailed as none_left:
                raise failure or none_left from None
            self.endpoint = endpoint
            began = monotonic()
            state = endpoint.state
            try:
                self.upstream = endpoint.dial(timeout, self._dial, opening, source)
            except ExchangeFailed as error:
                if error.reason.blame is not Blame.UPSTREAM:
                    raise  # another endpoint would not help
                failure = error
                tried.append(endpoint)
                self._tell(service, error, len(tried))
                if state is not None:
                    state.failure(monotonic(), began, trial=trial)
                    trial = False
            else:
                if state is not None:
                    state.success(monotonic(), began, trial=trial)
                    trial = False
            finally:
                self.dialing = None
                if trial and state is not None:
                    state.release()
                if self.upstream is None:
                    service.done(endpoint)

    def _tell(self, service: Service, failure: ExchangeFailed, tries: int) -> None:
        assert self.endpoint is not None
        self.server.plane.events.warning(
            Event.UPSTREAM_ERROR,
            service=service.name,
            upstream=self.endpoint.name,
            reason=failure.reason.word,
            error=failure.detail,
            tries=tries,
        )

    def _record(self, listener: Listener, seconds: float, reason: Reason | None) -> None:
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
                listener.name,
                self.client,
                upstream,
                seconds,
                self.stream.received,
                self.stream.sent,
                word,
                self.identity,
                destination=text(self.destination),
            )


class TcpServer(ProxyServer):
    """A TCP listener in this worker. Each of its connections has until the drain timeout; none is ever idle."""

    def make(self, sock: RawSocket, address: Any) -> TcpConnection:
        return TcpConnection(self.stream(sock), peer_ip(address), peer_port(address), self)

    def endless(self) -> list[TcpConnection]:
        return [connection for connection in self.connections if connection.relay is not None]

    def sweep(self, now: float) -> None:
        for connection in tuple(self.connections):
            connection.notice_departure()
