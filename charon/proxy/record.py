"""The end of every request and relayed connection: counted once and logged once, whatever happened to it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from charon.base.errors import Blame
from charon.base.names import NO_UPSTREAM

if TYPE_CHECKING:
    from charon.proxy.exchange import Exchange
    from charon.proxy.http import HttpConnection
    from charon.proxy.listener import Listener


def record_http(connection: HttpConnection, exchange: Exchange, listener: Listener) -> None:
    """Account for one finished exchange."""
    if not exchange.logged:
        return  # a scrape of the metrics is not traffic
    seconds = monotonic() - exchange.start
    head = exchange.head
    if head is not None:
        method, path, version = head.method.decode("ascii"), head.path.decode("ascii"), head.version
    else:
        method, path, version = "", "", 11
    endpoint = exchange.endpoint
    upstream = endpoint.name if endpoint is not None else NO_UPSTREAM
    plane = connection.server.plane
    plane.metrics.http_request(method, exchange.status, upstream, seconds)
    counters = connection.server.counters
    counters.requests += 1
    reason = exchange.reason
    if exchange.status >= 500 or (reason is not None and reason.blame is not Blame.CLIENT and exchange.status < 400):
        counters.errors += 1
    if listener.access_log:
        plane.access_log.http(
            method,
            path,
            upstream,
            exchange.status,
            seconds,
            exchange.bytes_out,
            listener.name,
            exchange.route,
            exchange.client,
            exchange.bytes_in,
            exchange.retries,
            reason.word if reason is not None else None,
            "HTTP/1.1" if version == 11 else "HTTP/1.0",
            identity=connection.identity,
            request_id=exchange.request_id.decode("ascii") if exchange.request_id else None,
        )
