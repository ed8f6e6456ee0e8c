"""The end of every request and relayed connection: counted once and logged once, whatever happened to it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from charon.base.errors import Blame
from charon.base.names import NO_UPSTREAM, Metric
from charon.proxy.intercepted import text
from charon.proxy.spans import record_request

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
        method = head.method.decode("ascii")
    else:
        method = ""
    endpoint = exchange.endpoint
    upstream = endpoint.name if endpoint is not None else NO_UPSTREAM
    plane = connection.server.plane
    reason = exchange.reason
    trace = exchange.trace
    if trace is not None and trace.recorded:
        record_request(connection, exchange, listener, trace, seconds)
        plane.metrics.http_request(method, exchange.status, upstream, seconds, trace.trace_id)
    else:
        plane.metrics.http_request(method, exchange.status, upstream, seconds)
    failed = exchange.status >= 500
    if reason is not None:
        plane.metrics.count(Metric.HTTP_FAILURES, (listener.name, reason.word))
        failed = failed or (exchange.status < 400 and reason.blame is not Blame.CLIENT)  # it was broken off
    connection.server.counters.answered(failed)
    if listener.access_log:
        plane.access_log.http(
            method,
            head.path.decode("ascii") if head is not None else "",
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
            "HTTP/1.0" if head is not None and head.version == 10 else "HTTP/1.1",
            identity=connection.identity,
            request_id=exchange.request_id.decode("ascii") if exchange.request_id else None,
            destination=None if connection.destination is None else text(connection.destination),
            trace_id=trace.trace_id if trace is not None else None,
            span_id=trace.span_id if trace is not None else None,
        )
