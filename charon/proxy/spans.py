"""Spans of a request and of its tries, by OpenTelemetry's semantic conventions for HTTP (stable since 1.23).

Paths are shown, queries are not: they may hold secrets. Only what is recorded comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from charon.base.errors import UPSTREAM_STATUS, Blame, Reason
from charon.base.names import SpanKey
from charon.net.accept import peer_ip
from charon.telemetry.metrics import METHODS
from charon.telemetry.spans import MAX_TEXT, Attributes
from charon.wire.forwarded import UNIX

if TYPE_CHECKING:
    from charon.net.stream import Stream
    from charon.proxy.attempt import Attempt
    from charon.proxy.exchange import Exchange
    from charon.proxy.http import HttpConnection
    from charon.proxy.listener import Listener
    from charon.telemetry.tracing import Trace
    from charon.wire.messages import RequestHead

_VERSIONS: Final = {10: "1.0", 11: "1.1"}


def record_request(
    connection: HttpConnection, exchange: Exchange, listener: Listener, trace: Trace, seconds: float
) -> None:
    """The span of the client's request, which took ``seconds``. A refusal (4xx) is no error of the server's."""
    head = exchange.head
    assert head is not None
    attributes: Attributes = {
        "url.scheme": connection.scheme.decode("ascii"),
        "url.path": _text(head.path),
        "network.protocol.version": _VERSIONS[head.version],
        SpanKey.LISTENER: listener.name,
    }
    method = _method(head, attributes)
    _server(trace.host, attributes)
    if exchange.client:
        attributes["client.address"] = exchange.client
    if connection.client == UNIX:
        attributes["network.transport"] = UNIX
    else:
        attributes["network.peer.address"] = connection.client
    agent = next((value for name, value in head.fields if name.lower() == b"user-agent"), b"")
    if agent:
        attributes["user_agent.original"] = _text(agent)
    if connection.identity:
        attributes[SpanKey.IDENTITY] = connection.identity[:MAX_TEXT]
    if exchange.route:
        attributes[SpanKey.ROUTE] = exchange.route
    if exchange.endpoint is not None:
        attributes[SpanKey.SERVICE] = exchange.endpoint.service
        attributes[SpanKey.UPSTREAM] = exchange.endpoint.name
    status = exchange.status if exchange.started else 0
    error = _outcome(status, exchange.reason, 500, attributes)
    name = f"{method} {exchange.route}" if exchange.route else method
    trace.request_span(name, exchange.start, exchange.start + seconds, error, attributes)


def record_try(attempt: Attempt, trace: Trace, start: float, end: float, reason: Reason | None) -> None:
    """The span of one try, which ended with ``reason`` or well. To whoever asks, 4xx is an error too."""
    exchange = attempt.exchange
    head = exchange.head
    assert head is not None
    endpoint = attempt.endpoint
    attributes: Attributes = {SpanKey.SERVICE: endpoint.service, SpanKey.UPSTREAM: endpoint.name}
    method = _method(head, attributes)
    host = head.host or endpoint.name.encode()
    path = head.target.partition(b"?")[0]
    scheme, port = (b"http", 80) if endpoint.tls is None else (b"https", 443)
    attributes["url.full"] = _text(b"%b://%b%b" % (scheme, host, b"" if path == b"*" else path))
    _server(host, attributes)
    attributes.setdefault("server.port", port)
    peer = attempt.peer
    if isinstance(peer, tuple):
        attributes["network.peer.address"], attributes["network.peer.port"] = peer_ip(peer), peer[1]
    elif isinstance(peer, str):
        attributes["network.peer.address"] = peer
        attributes["network.transport"] = UNIX
    if exchange.retries:
        attributes["http.request.resend_count"] = exchange.retries
    answer = attempt.answer
    if answer is not None:
        attributes["network.protocol.version"] = _VERSIONS[answer.version]
    if reason is UPSTREAM_STATUS:
        reason = None  # the status says it
    error = _outcome(answer.status if answer is not None else 0, reason, 400, attributes)
    trace.try_span(method, start, end, error, attributes)


def peer_of(stream: Stream) -> Any:
    """The address at the other end, as the socket has it; None when the connection has ended already."""
    try:
        return stream.sock.getpeername()
    except OSError:
        return None


def _method(head: RequestHead, attributes: Attributes) -> str:
    """Note the method. Returns the word for it in a span's name, of which there are only a few."""
    method = head.method.decode("ascii")
    if method in METHODS:
        attributes["http.request.method"] = method
        return method
    attributes["http.request.method"] = "_OTHER"
    attributes["http.request.method_original"] = method
    return "HTTP"


def _server(authority: bytes, attributes: Attributes) -> None:
    """Note whom the request was for: a host, a colon and a port; IPv6 in brackets."""
    host, colon, port = authority.decode("ascii").rpartition(":")
    if not colon or port.endswith("]"):
        host, port = authority.decode("ascii"), ""
    if host:
        attributes["server.address"] = host.strip("[]")
    if port.isdigit():
        attributes["server.port"] = int(port)


def _outcome(status: int, reason: Reason | None, errors_from: int, attributes: Attributes) -> bool:
    """Note how it ended, and whether that is an error. What a client did is no error of anyone's but its own."""
    if status:
        attributes["http.response.status_code"] = status
    failed = reason is not None and reason.blame is not Blame.CLIENT and reason.status >= errors_from
    if reason is not None:
        attributes[SpanKey.REASON] = reason.word
    if not failed and status < errors_from:
        return False
    attributes["error.type"] = reason.word if failed and reason is not None else str(status)
    return True


def _text(value: bytes) -> str:
    return value[:MAX_TEXT].decode("latin-1")
