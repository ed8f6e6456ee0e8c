"""The HTTP listener of a worker: pywsgi's server and handler class around Charon's own connection loop.

From pywsgi come accepting, the bounded pool and stopping. Its parser and its WSGI machinery never see a proxied byte:
:meth:`HttpConnection.handle` replaces its loop with the strict grammar of :mod:`charon.wire`.
"""

from __future__ import annotations

from _socket import socket as RawSocket
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent.event import Event as Flag
from gevent.pywsgi import WSGIHandler, WSGIServer

from charon.base.errors import (
    CLIENT_ABORT,
    CLIENT_TOO_SLOW,
    DRAINING,
    INTERNAL,
    OVERLOADED,
    REQUEST_TIMEOUT,
    BadMessage,
    ExchangeFailed,
    Reason,
)
from charon.base.names import Event
from charon.net.accept import peer_ip, peer_port
from charon.net.deadlines import NEVER, deadlines
from charon.net.relay import Relay
from charon.net.stream import DeadlineExceeded, Peer, Stream
from charon.net.tls_stream import TlsStream
from charon.policy.peers import forwarded_client_cert
from charon.proxy.exchange import Exchange
from charon.proxy.forward import carry
from charon.proxy.listener import Listener
from charon.proxy.passthrough import Destination
from charon.proxy.plane import DataPlane
from charon.proxy.record import record_http
from charon.proxy.respond import local_answer
from charon.proxy.server import ProxyServer
from charon.wire.forwarded import client_address
from charon.wire.messages import RequestHead, parse_request

_LINGER = 5.0
"""Seconds in which a client may still send after the last answer, so that a reset does not destroy that answer."""

_COME_BACK = 1
"""Seconds after which a client that was turned away may try again: overload is over within a few, or goes on."""

_SHORT_LINGER = 0.5
"""The same for a client that was too slow: it has had its time, and there is little of it on the way."""

_LAST_REQUEST = 1.0
"""Seconds that an idle connection has for one more request when it is to end: a busy client's next one is on its way,
and is answered with ``Connection: close`` instead of being cut off."""


class HttpConnection(WSGIHandler):
    """One client connection: requests one after the other until either side ends it.

    ``buffer`` holds bytes read beyond the current request. ``waits_on`` is the upstream stream whose answer is being
    waited for, ``passes_on`` the one whose answer is being passed on as it comes, ``endless`` that nobody knows how
    long that will be; ``relay`` is the tunnel after an upgrade; ``idle`` says that no request is under way.
    """

    server: HttpServer

    def __init__(self, sock: RawSocket, address: Any, server: HttpServer) -> None:
        # pywsgi would set up a buffered reader and WSGI state here, for the parser that is not used.
        self.server = server
        self.stream = server.stream(sock)
        self.client = peer_ip(address)
        self.port = peer_port(address)
        self.destination: Destination | None = None
        self.noted = False
        self.scheme = b"http"
        self.identity: str | None = None
        self.client_cert = b""
        self.buffer = b""
        self.waits_on: Stream | None = None
        self.passes_on: Stream | None = None
        self.endless = False
        self.relay: Relay | None = None
        self.idle = True
        self.served = 0
        self.left_at = 0.0
        self._pausing: Flag | None = None

    def handle(self) -> None:
        """Serve the connection until it ends."""
        try:
            if isinstance(self.stream, TlsStream):
                self._introduce(self.stream)
            while self._serve_one():
                self.served += 1
        finally:
            self.stream.close()

    def refuse(self, reason: Reason) -> None:
        """Turn the client away before it has asked for anything. One that speaks TLS is not worth a handshake."""
        listener = self.server.listener
        exchange = Exchange(monotonic(), self.client, listener.default, listener.timeouts)
        exchange.fail(reason, "")
        exchange.status = reason.status
        try:
            if not isinstance(self.stream, TlsStream) and self.answer(exchange, local_answer(reason, retry_after=1)):
                self._close_gently()
        finally:
            record_http(self, exchange, listener)
            self.stream.close()

    def _introduce(self, stream: TlsStream) -> None:
        """Note who the client is, once for all of its requests."""
        self.scheme = b"https"
        peer = stream.peer_identity
        if peer is not None:
            tls = self.server.listener.tls
            self.identity = peer.spiffe
            own = None if tls is None else tls.identity
            self.client_cert = forwarded_client_cert(peer, stream.certificate_digest(), own)

    def _serve_one(self) -> bool:
        """One request and its answer. Returns whether another may follow."""
        data = self.buffer or self._next_bytes()
        if data == b"\r\n":
            data = self._after_empty_lines()
        if not data:
            return False
        listener = self.server.listener
        exchange = Exchange(monotonic(), self.client, listener.default, listener.timeouts)
        counters = self.server.counters
        counters.in_flight += 1
        keep = False
        try:
            head = self._head(exchange, listener, data)
            if head is not None:
                if head.forwarded is not None:
                    exchange.client = client_address(head, self.client, listener.trusted)
                guard = self.server.plane.guard
                if guard.shedding and head.path != listener.metrics_path and guard.sheds():
                    keep = self._shed(exchange, head)
                else:
                    keep = carry(self, exchange, listener)
                    self.stream.cutoff = NEVER
        except Exception as error:  # noqa: BLE001 - a fault of ours must cost one request, not the worker
            exchange.fail(INTERNAL, repr(error))
            self.server.plane.events.error(Event.INTERNAL_ERROR, exc=error, listener=listener.name, **exchange.ids())
            if not exchange.started:
                exchange.status = INTERNAL.status
                self.answer(exchange, local_answer(INTERNAL))
        finally:
            counters.in_flight -= 1
            record_http(self, exchange, listener)
        if not keep and exchange.reason is not CLIENT_ABORT and not self.stream.closed:
            self._linger(exchange)
        return keep

    def _after_empty_lines(self) -> bytes:
        """Old clients end a body with one more line (RFC 9112 section 2.2), with which no request begins. Such lines
        do not make the wait for one any longer: a connection could be held open with them for ever."""
        timeouts = self.server.listener.timeouts
        self.stream.cutoff = monotonic() + (timeouts.idle if self.served else timeouts.client_header)
        try:
            while (data := self._next_bytes()) == b"\r\n":
                pass
            return data
        finally:
            self.stream.cutoff = NEVER

    def _next_bytes(self) -> bytes:
        """The first bytes of the next request; ``b""`` when there will be none."""
        timeouts = self.server.listener.timeouts
        patience = timeouts.idle if self.served else timeouts.client_header
        if self.server.draining:
            patience = min(patience, _LAST_REQUEST)
        self.idle = True
        try:
            return self.stream.read_later(patience)
        except DeadlineExceeded:
            return b"" if self.stream.quiet() else self._next_bytes()  # it came at the last moment
        except (ExchangeFailed, OSError):
            return b""
        finally:
            self.idle = False

    def _head(self, exchange: Exchange, listener: Listener, data: bytes) -> RequestHead | None:
        """The whole request head; None when there is no valid one, and the client has been told."""
        try:
            parsed = parse_request(data, listener.head_limits)
            if parsed is None:
                data, parsed = self._rest_of_head(exchange, listener, data)
        except BadMessage as bad:
            self._refuse(exchange, bad)
            return None
        except DeadlineExceeded:
            self._refuse(exchange, BadMessage(REQUEST_TIMEOUT, "the head was not complete in time"))
            return None
        except (ExchangeFailed, OSError) as error:
            exchange.fail(CLIENT_ABORT, str(error))
            exchange.status = CLIENT_ABORT.status
            return None
        head, used = parsed
        self.buffer = data[used:]
        exchange.head = head
        return head

    def _rest_of_head(
        self, exchange: Exchange, listener: Listener, data: bytes
    ) -> tuple[bytes, tuple[RequestHead, int]]:
        stream = self.stream
        stream.cutoff = exchange.start + listener.timeouts.client_header
        try:
            while True:
                more = stream.read(NEVER)
                if not more:
                    raise ExchangeFailed(CLIENT_ABORT, "closed in the middle of the request head")
                data += more
                if b"\n" not in more and len(data) <= listener.head_limits.max_header_bytes:
                    continue  # only the end of a line can change the verdict; do not look at each dripped byte
                parsed = parse_request(data, listener.head_limits)
                if parsed is not None:
                    return data, parsed
        finally:
            stream.cutoff = NEVER

    def _refuse(self, exchange: Exchange, bad: BadMessage) -> None:
        """Answer bytes that are no valid request. Nothing after them can be trusted to begin a message."""
        exchange.fail(bad.reason, bad.detail)
        exchange.status = bad.reason.status
        self.answer(exchange, local_answer(bad.reason))

    def _shed(self, exchange: Exchange, head: RequestHead) -> bool:
        """Turn a request away before anything is done for it: the worker has more to do than it can."""
        exchange.fail(OVERLOADED, "the worker has more to do than it can")
        exchange.status = OVERLOADED.status
        # A body would have to be read to its end first, which is the very work that there is too much of.
        keep = head.keep_alive and not head.body and not self.server.draining
        answer = local_answer(
            OVERLOADED,
            version=head.version,
            keep_alive=keep,
            head_only=head.method == b"HEAD",
            retry_after=_COME_BACK,
        )
        return self.answer(exchange, answer) and keep

    def answer(self, exchange: Exchange, answer: bytes) -> bool:
        """Send an answer of Charon's own. Returns whether the client took it."""
        exchange.started = True
        body = answer.partition(b"\r\n\r\n")[2]
        try:
            self.stream.write(answer, self.server.listener.timeouts.idle)
        except (DeadlineExceeded, OSError):
            return False
        exchange.bytes_out = len(body)
        return True

    def _linger(self, exchange: Exchange) -> None:
        """Close in two steps (RFC 9112 section 9.6): say the end, then read what the client still sends."""
        head = exchange.head
        if head is not None and not head.keep_alive and not self.buffer and not head.body:
            return  # the client asked for the close and has sent all it will
        slow = exchange.reason is REQUEST_TIMEOUT or exchange.reason is CLIENT_TOO_SLOW
        self._close_gently(_SHORT_LINGER if slow else _LINGER)

    def _close_gently(self, seconds: float = _LINGER) -> None:
        stream = self.stream
        stream.cutoff = monotonic() + seconds
        try:
            stream.finish_writing(_LINGER)
            while stream.read(_LINGER):
                pass
        except (DeadlineExceeded, ExchangeFailed, OSError):
            pass  # it had its time, or it is gone; closing is all that is left

    def end_if_idle(self) -> None:
        """Between requests, wait for one more, but not for long, and no longer when this is said again."""
        if self.idle and self.stream.deadline > monotonic() + _LAST_REQUEST:
            self.stream.rearm(_LAST_REQUEST)

    def abort(self) -> None:
        """End the connection wherever it is: its time to drain is over."""
        if self.relay is not None:
            self.relay.end(DRAINING, "drain timeout")
            return
        self.stream.interrupt(ExchangeFailed(DRAINING, "drain timeout"))
        for upstream in (self.waits_on, self.passes_on):
            if upstream is not None:
                upstream.interrupt(ExchangeFailed(DRAINING, "drain timeout"))

    def notice_departure(self, now: float, client_fin: float) -> None:
        """Called by the sweep: a client that has left while its answer is waited for ends the wait."""
        upstream = self.waits_on
        if upstream is None and self._pausing is None:
            self.left_at = 0.0
            return
        peer = self.stream.peer()
        if peer is Peer.OPEN:
            return
        if peer is Peer.ENDED and client_fin:
            if not self.left_at:
                self.left_at = now
                deadlines().schedule(_Departure(self, now, client_fin))
        elif upstream is not None:
            upstream.interrupt(ExchangeFailed(CLIENT_ABORT, f"{peer.value} while waiting for the answer"))
        elif self._pausing is not None:
            self._pausing.set()

    def wait_on(self, upstream: Stream) -> None:
        """Note what is being waited for, so that the client's departure can end the wait."""
        self.waits_on = upstream

    @property
    def pausing(self) -> bool:
        return self._pausing is not None

    def pause(self, seconds: float) -> bool:
        """Wait before another try. Returns whether the client is still there."""
        self._pausing = Flag()
        try:
            return not self._pausing.wait(timeout=seconds)
        finally:
            self._pausing = None


class _Departure:
    """A client that has closed its sending side: looked at again after ``client_fin`` seconds, not at some sweep."""

    __slots__ = ("_connection", "_since", "deadline", "looked_at", "tick")

    def __init__(self, connection: HttpConnection, now: float, client_fin: float) -> None:
        self._connection = connection
        self._since = now
        self.deadline = now + client_fin
        self.looked_at = NEVER
        self.tick = 0

    def expire(self) -> None:
        if self._connection.left_at == self._since:
            self._connection.notice_departure(self.deadline, 0.0)


class HttpServer(ProxyServer, WSGIServer):
    """An HTTP listener in this worker."""

    handler_class = HttpConnection

    def __init__(
        self, fd: int, listener: Listener, plane: DataPlane, max_connections: int, on_error: Callable[[OSError], None]
    ) -> None:
        super().__init__(fd, listener, plane, max_connections, on_error, log=None, error_log=None)

    def make(self, sock: RawSocket, address: Any) -> HttpConnection:
        return HttpConnection(sock, address, self)

    def update_environ(self) -> None:
        """pywsgi looks up the host's name here, for WSGI's environ, which is not used."""

    def sweep(self, now: float) -> None:
        """Greenlets that wait for an upstream cannot see their client leave: look for them."""
        client_fin = self.listener.timeouts.client_fin
        for connection in tuple(self.connections):
            if connection.waits_on is not None or connection.left_at or connection.pausing:
                connection.notice_departure(now, client_fin)

    def endless(self) -> list[HttpConnection]:
        return [c for c in self.connections if c.relay is not None or (c.passes_on is not None and c.endless)]

    def close_idle(self) -> None:
        for connection in self.connections:
            connection.end_if_idle()
