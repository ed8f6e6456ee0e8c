"""Carrying one request: which service, which endpoint, how many tries, and what the client sees if none succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from charon.base.errors import (
    BAD_CHUNK,
    BODY_TOO_LARGE,
    CLIENT_ABORT,
    LOOP_DETECTED,
    NO_ENDPOINT,
    NO_ROUTE,
    UNKNOWN_SERVICE,
    BadMessage,
    Blame,
    ExchangeFailed,
)
from charon.base.names import Event
from charon.policy.retry import may_retry
from charon.policy.routes import host_key
from charon.proxy.attempt import Attempt
from charon.proxy.body import BodyReader, chunk
from charon.proxy.respond import local_answer
from charon.wire.chunked import encode_last
from charon.wire.forwarded import is_loop, request_extra
from charon.wire.messages import CHUNKED, RequestHead, serialize_request

if TYPE_CHECKING:
    from charon.proxy.endpoint import Endpoint
    from charon.proxy.exchange import Exchange
    from charon.proxy.http import HttpConnection
    from charon.proxy.listener import Listener
    from charon.proxy.service import Service

METRICS_SERVICE = "charon-admin"
"""The supervisor's admin socket, as a service; ``/metrics`` on a listener is forwarded there."""

_FURTHER_TRIES = 2


def carry(connection: HttpConnection, exchange: Exchange, listener: Listener) -> bool:
    """Answer the request in ``exchange``, from an endpoint or by Charon itself.

    Returns whether the client's connection can go on. ``connection.buffer`` then holds what follows the request.
    """
    head = exchange.head
    assert head is not None
    body: BodyReader | None = None
    if head.body:
        body = BodyReader(connection.stream, head.body, connection.buffer, BAD_CHUNK, listener.head_limits)
        connection.buffer = b""
    try:
        service = _route(connection, exchange, listener, head)
        for stage in listener.stages:
            stage(exchange)
        keep = _forward(connection, exchange, listener, service, body)
    except BadMessage as bad:
        exchange.fail(bad.reason, bad.detail)
        keep = _answer_failure(connection, exchange, body)
    except ExchangeFailed as failure:
        exchange.fail(failure.reason, failure.detail)
        keep = _answer_failure(connection, exchange, body)
    if body is not None:
        exchange.bytes_in += body.size
        connection.buffer = body.leftover
        return keep and body.done
    return keep


def _route(connection: HttpConnection, exchange: Exchange, listener: Listener, head: RequestHead) -> Service:
    """The service for a request. Raises ExchangeFailed when there is none."""
    plane = connection.server.plane
    name = listener.default_service
    if head.path == listener.metrics_path and head.method in (b"GET", b"HEAD"):
        name = METRICS_SERVICE
        exchange.logged = False
    elif not listener.routes.empty:
        route = listener.routes.match(host_key(head.host), head.path)
        if route is not None:
            exchange.route = route.name
            name = route.service
    if name is None:
        raise ExchangeFailed(NO_ROUTE)
    if head.forwarded is not None and is_loop(head, plane.instance):
        raise ExchangeFailed(LOOP_DETECTED)
    service = plane.service(name)
    if service is None or not service.known:
        raise ExchangeFailed(UNKNOWN_SERVICE, name)
    return service


def _forward(
    connection: HttpConnection, exchange: Exchange, listener: Listener, service: Service, body: BodyReader | None
) -> bool:
    request = _request_bytes(connection, exchange, listener, service, body)
    tried: list[Endpoint] = []
    tries_left = _FURTHER_TRIES
    endpoint = service.pick()
    if endpoint is None:
        raise ExchangeFailed(NO_ENDPOINT, service.name)
    while True:
        exchange.endpoint = endpoint
        attempt = Attempt(connection, exchange, listener, endpoint, body)
        try:
            attempt.run(request, fresh=tries_left < _FURTHER_TRIES)
            return attempt.keep
        except ExchangeFailed as error:
            if exchange.started or not may_retry(attempt.outcome(error.reason), tries_left):
                raise
            # A pooled connection that went stale says nothing about its endpoint; any other failure does.
            if not attempt.reused:
                tried.append(endpoint)
            endpoint = service.pick(tried)
            if endpoint is None:
                raise
            _tell(connection, exchange, error)
        tries_left -= 1
        exchange.retries += 1
        connection.server.plane.metrics.retry(_method(exchange))


def _request_bytes(
    connection: HttpConnection, exchange: Exchange, listener: Listener, service: Service, body: BodyReader | None
) -> bytes:
    """The request as it goes up: its head, and as much of its body as came along with it."""
    head = exchange.head
    assert head is not None
    server = connection.server
    trusted = listener.trusted.trusts(connection.client)
    if not head.host:
        head.host = service.authority  # HTTP/1.0 without Host: most servers want one in HTTP/1.1
    extra = request_extra(head, connection.client, b"http", trusted, server.plane.instance)
    if head.upgrade is not None:
        extra += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    elif head.te_trailers:
        extra += b"Connection: TE\r\nTE: trailers\r\n"
    if body is None:
        return serialize_request(head, extra)
    piece = body.buffered()
    if listener.max_body is not None and body.size > listener.max_body:
        raise ExchangeFailed(BODY_TOO_LARGE, f"more than {listener.max_body} bytes")
    if head.expect_continue and not body.done:
        extra += b"Expect: 100-continue\r\n"
    if head.body == CHUNKED:
        piece = (chunk(piece) if piece else b"") + (encode_last(body.trailers) if body.done else b"")
    return serialize_request(head, extra) + piece


def _answer_failure(connection: HttpConnection, exchange: Exchange, body: BodyReader | None) -> bool:
    """Tell the client, if it can still be told, and say whether its connection can go on."""
    reason = exchange.reason
    assert reason is not None
    _tell_failure(connection, exchange)
    if exchange.started:
        return False
    exchange.status = reason.status
    if reason is CLIENT_ABORT:
        return False
    head = exchange.head
    assert head is not None
    # After a request that broke the rules nothing more is taken from its client, even where all of it was read.
    keep = head.keep_alive and reason.blame is not Blame.CLIENT and (body is None or body.done)
    keep = keep and not connection.server.plane.draining
    answer = local_answer(reason, version=head.version, keep_alive=keep, head_only=head.method == b"HEAD")
    return connection.answer(exchange, answer) and keep


def _tell_failure(connection: HttpConnection, exchange: Exchange) -> None:
    reason = exchange.reason
    if reason is not None and exchange.endpoint is not None and reason is not CLIENT_ABORT:
        _tell(connection, exchange, ExchangeFailed(reason, exchange.detail))


def _tell(connection: HttpConnection, exchange: Exchange, failure: ExchangeFailed) -> None:
    """A try at an endpoint failed: say so in the event log."""
    endpoint = exchange.endpoint
    assert endpoint is not None
    connection.server.plane.events.warning(
        Event.UPSTREAM_ERROR,
        service=endpoint.service,
        upstream=endpoint.name,
        reason=failure.reason.word,
        error=failure.detail or failure.reason.text,
        method=_method(exchange),
        tries=exchange.retries + 1,
    )


def _method(exchange: Exchange) -> str:
    return exchange.head.method.decode("ascii") if exchange.head is not None else ""
