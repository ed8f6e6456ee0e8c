"""Carrying one request: which rule, which service, which endpoint, how many tries, and what the client sees at last."""

from __future__ import annotations

import random
from os import urandom
from time import monotonic
from typing import TYPE_CHECKING

from charon.base.errors import (
    BAD_CHUNK,
    BODY_TOO_LARGE,
    CLIENT_ABORT,
    IDENTITY_DENIED,
    LOOP_DETECTED,
    NO_ROUTE,
    OVERLOADED,
    RATE_LIMITED,
    UNKNOWN_SERVICE,
    BadMessage,
    Blame,
    ExchangeFailed,
)
from charon.base.names import Event, Metric
from charon.policy.access import Access
from charon.policy.retry import TryOutcome, backoff, may_retry
from charon.policy.routes import host_key
from charon.proxy.attempt import Attempt
from charon.proxy.balance_key import balance_key
from charon.proxy.body import BodyReader
from charon.proxy.intercepted import service_for
from charon.proxy.place import Place
from charon.proxy.respond import local_answer, redirect_answer
from charon.proxy.stages import limit_rate, whole_seconds
from charon.wire.chunked import encode_chunk, encode_last
from charon.wire.forwarded import is_loop, request_extra
from charon.wire.messages import CHUNKED, RequestHead, connection_lines, serialize_request
from charon.wire.request_id import identified, line
from charon.wire.tracecontext import rewritten

if TYPE_CHECKING:
    from charon.proxy.endpoint import Endpoint
    from charon.proxy.exchange import Exchange
    from charon.proxy.http import HttpConnection
    from charon.proxy.listener import Listener
    from charon.proxy.service import Service
    from charon.shared.concurrency import ServiceConcurrency

METRICS_SERVICE = "charon-admin"
"""The supervisor's admin socket, as a service; ``/metrics`` on a listener is forwarded there."""


def carry(connection: HttpConnection, exchange: Exchange, listener: Listener) -> bool:
    """Answer the request in ``exchange``, from an endpoint or by Charon itself.

    Returns whether the client's connection can go on. ``connection.buffer`` then holds what follows the request.
    """
    head = exchange.head
    assert head is not None
    tracer = connection.server.plane.tracer
    if tracer is not None:
        exchange.trace = tracer.begin(head)
    body: BodyReader | None = None
    if head.body:
        body = BodyReader(connection.stream, head.body, connection.buffer, BAD_CHUNK, listener.head_limits)
        connection.buffer = b""
    if listener.request_id:
        exchange.request_id, head.fields = identified(head.fields, _fresh_id)
    try:
        if listener.access is not None:
            _admit(listener.access, connection)
        name = _route(connection, exchange, listener, head)
        if exchange.rule.access is not None:
            _admit(exchange.rule.access, connection)
        if exchange.logged:  # a scrape of the metrics is not traffic
            for stage in listener.stages:
                stage(exchange)
        rule = exchange.rule
        if rule.limiter is not None:
            limit_rate(rule.limiter, exchange)
        if rule.redirect is not None:
            keep = _redirect(connection, exchange, head, body)
        else:
            service = _service(connection, listener, exchange, name)
            forwarding = _Forwarding(connection, exchange, listener, service, body)
            keep = forwarding.run() if service.concurrency is None else forwarding.run_in_place(service.concurrency)
    except BadMessage as bad:
        keep = _answer_failure(connection, exchange, body, ExchangeFailed(bad.reason, bad.detail))
    except ExchangeFailed as failure:
        keep = _answer_failure(connection, exchange, body, failure)
        _forget(failure)
    if body is not None:
        exchange.bytes_in += body.size
        connection.buffer = body.leftover
        return keep and body.done
    return keep


def _route(connection: HttpConnection, exchange: Exchange, listener: Listener, head: RequestHead) -> str | None:
    """Find the rule of a request. Returns the name of its service, None for a redirect. Raises ExchangeFailed."""
    if head.path == listener.metrics_path and head.method in (b"GET", b"HEAD"):
        exchange.logged = False
        exchange.trace = None
        head.target = b"/metrics" + head.target[len(head.path) :]  # whatever the listener calls it
        return METRICS_SERVICE
    if head.forwarded is not None and is_loop(head, connection.server.plane.instance):
        raise ExchangeFailed(LOOP_DETECTED)
    rule = listener.default
    if not listener.routes.empty:
        found = listener.routes.match(host_key(head.host), head.path, head.method, head.fields)
        if found is not None:
            exchange.rule = rule = found
            exchange.route = rule.name
    if rule.split is not None:
        name, exchange.set_cookie = rule.split.assign(head.fields, random.random())  # noqa: S311 - no secret
        return name
    if rule.service is None and rule.redirect is None and connection.destination is None:
        raise ExchangeFailed(NO_ROUTE)
    return rule.service


def _admit(access: Access, connection: HttpConnection) -> None:
    if not access.allows(connection.identity):
        raise ExchangeFailed(IDENTITY_DENIED, connection.identity or "no identity")


def _service(connection: HttpConnection, listener: Listener, exchange: Exchange, name: str | None) -> Service:
    if connection.destination is not None:
        return service_for(connection, listener, None if exchange.rule is listener.default else name)
    service = connection.server.plane.service(name or "")
    if service is None or not service.spec.known:
        raise ExchangeFailed(UNKNOWN_SERVICE, name or "")
    return service


class _Forwarding:
    """The tries of one request at one service."""

    __slots__ = (
        "body",
        "connection",
        "exchange",
        "listener",
        "policy",
        "service",
        "spec",
        "tried",
        "tries_left",
        "wait",
    )

    def __init__(
        self,
        connection: HttpConnection,
        exchange: Exchange,
        listener: Listener,
        service: Service,
        body: BodyReader | None,
    ) -> None:
        self.connection = connection
        self.exchange = exchange
        self.listener = listener
        self.service = service
        self.body = body
        rule = exchange.rule
        self.spec = rule.retry or service.spec.retry
        self.policy = rule.policy or service.policy
        self.tries_left = self.spec.attempts
        self.tried: list[Endpoint] = []
        self.wait = 0.0
        exchange.watches_latency = service.watches_latency
        if service.spec.timeouts is not None or rule.timeout is not None:
            exchange.timeouts = listener.timeouts_for(service.spec.timeouts, rule.timeout)
        timeouts = exchange.timeouts
        if timeouts.request is not None:
            exchange.cutoff = exchange.start + timeouts.request

    def run_in_place(self, concurrency: ServiceConcurrency) -> bool:
        """As :meth:`run`, if the service may have one more request now. Raises ExchangeFailed (503) if not."""
        # Before anything is done for it: what is turned away should cost as little as possible.
        if not concurrency.enter():
            self.connection.server.plane.metrics.count(Metric.CONCURRENCY_SHED, (self.service.name,))
            raise ExchangeFailed(OVERLOADED, self.service.name, retry_after=1.0)
        place = self.exchange.place = Place(concurrency, monotonic())
        try:
            return self.run()
        finally:
            place.leave()

    def run(self) -> bool:
        """Try until there is an answer to pass on. Returns whether the client's connection can go on."""
        exchange = self.exchange
        service = self.service
        request = self._request_bytes()
        if self.tries_left:
            service.budget.add_request(exchange.start)
        key = balance_key(service.spec.balance, exchange) if service.hashes else None
        endpoint, trial = service.choose((), key)
        fresh = self.listener.keeps_client  # a connection that names a client is not for another's requests
        while True:
            exchange.endpoint = endpoint
            # Without further tries a body is kept too, as long as the connection may turn out to be a stale one.
            keep_bytes = self.spec.max_body_bytes if self.tries_left or not fresh else 0
            attempt = Attempt(
                self.connection, exchange, self.listener, endpoint, self.body, trial, keep_bytes, self._may_discard
            )
            try:
                attempt.run(request, self.spec.per_try_timeout, fresh=fresh)
                return attempt.keep
            except ExchangeFailed as error:
                failure = error
                if exchange.place is not None:
                    exchange.place.failed(error.reason, monotonic())
            finally:
                if service.spec.bulkhead is not None:
                    service.done(endpoint)
            if attempt.stale(failure) and not fresh:
                # The ordinary end of a pooled connection: one new one, whatever the policy and the budget are.
                if not may_retry(attempt.outcome(failure.reason), 1):
                    raise failure
                endpoint, trial = service.choose((), key)
            else:
                if not attempt.discarded and not self._may_retry(attempt.outcome(failure.reason)):
                    raise failure
                endpoint, trial = self._next(attempt, failure, key)
                self.tries_left -= 1
            _forget(failure)
            if exchange.place is not None:
                exchange.place.again(monotonic())
            fresh = True
            request = attempt.replay(request)
            if exchange.trace is not None:
                request = rewritten(request, exchange.trace.fields, exchange.trace.next_try())
            exchange.retries += 1
            self.connection.server.plane.metrics.retry(_method(exchange))

    def _may_retry(self, outcome: TryOutcome) -> bool:
        """Whether the policy allows another try, the deadline the ``wait`` before it, and the budget has room."""
        if not may_retry(outcome, self.tries_left, self.policy):
            return False
        if outcome.reason is not None and outcome.reason.unsent:
            return True  # it has reached nobody, so that asking another endpoint adds no load
        self.wait = backoff(self.spec, self.exchange.retries + 1, random.random())  # noqa: S311 - no secret
        if monotonic() + self.wait >= self.exchange.cutoff:
            return False
        if self.service.budget.take(monotonic()):
            return True
        self.connection.server.plane.metrics.count(Metric.RETRY_BUDGET_EXHAUSTED, (self.service.name,))
        return False

    def _may_discard(self, outcome: TryOutcome) -> bool:
        """Whether an answer that has not been passed on is dropped for another try: not if there is nobody to ask."""
        if outcome.status not in self.policy.statuses:
            return False
        now = monotonic()
        return any(e.usable(now, ejected_too=True) for e in self.service.endpoints) and self._may_retry(outcome)

    def _next(self, attempt: Attempt, failure: ExchangeFailed, key: int | None) -> tuple[Endpoint, bool]:
        """Where to try again, after the wait that is due. Raises ``failure`` when there is nowhere."""
        endpoint = attempt.endpoint
        self.tried.append(endpoint)
        try:
            chosen = self.service.choose(self.tried, key)
        except ExchangeFailed:
            if failure.reason.unsent:
                raise failure from None  # nobody listens there; asking the same one again helps nobody
            self._pause()
            try:
                chosen = self.service.choose((), key)
            except ExchangeFailed:
                raise failure from None
            _tell(self.connection, self.exchange, failure)
            return chosen
        _tell(self.connection, self.exchange, failure)
        if not failure.reason.unsent:
            try:
                self._pause()
            except ExchangeFailed:
                self.service.done(chosen[0])
                if chosen[1] and chosen[0].state is not None:
                    chosen[0].state.release()
                raise
        return chosen

    def _pause(self) -> None:
        """The back-off. Raises CLIENT_ABORT when the client leaves."""
        if not self.connection.pause(self.wait):
            raise ExchangeFailed(CLIENT_ABORT, "left while another try was waited for")

    def _request_bytes(self) -> bytes:
        """The request as it goes up: its head, and as much of its body as came along with it."""
        connection, listener, body = self.connection, self.listener, self.body
        head = self.exchange.head
        assert head is not None
        trusted = listener.trusted.trusts(connection.client)
        if not head.host:
            head.host = self.service.authority  # HTTP/1.0 without Host: most servers want one in HTTP/1.1
        extra = request_extra(
            head,
            connection.client,
            connection.scheme,
            trusted,
            connection.server.plane.instance,
            connection.client_cert,
        )
        if head.upgrade is not None or head.te_trailers:
            extra += connection_lines(head)
        if self.exchange.trace is not None:
            head.fields = self.exchange.trace.applied_to(head.fields)
        rule = self.exchange.rule
        if rule.rewrite is not None or rule.request_edits is not None:
            self._edit(head)
        if body is None:
            return serialize_request(head, extra)
        piece = body.buffered()
        if listener.max_body is not None and body.size > listener.max_body:
            raise ExchangeFailed(BODY_TOO_LARGE, f"more than {listener.max_body} bytes")
        if head.expect_continue and not body.done:
            extra += b"Expect: 100-continue\r\n"
        if head.body == CHUNKED:
            piece = encode_chunk(piece) + (encode_last(body.trailers) if body.done else b"")
        return serialize_request(head, extra) + piece

    def _edit(self, head: RequestHead) -> None:
        """What the route changes in the request. The path that was asked for stays in the log."""
        rule = self.exchange.rule
        if rule.rewrite is not None:
            head.target = rule.rewrite.target(head.path, head.target[len(head.path) :])
            if rule.rewrite.host is not None:
                head.host = rule.rewrite.host
        if rule.request_edits is not None:
            head.fields = rule.request_edits.apply(head.fields)


def _redirect(connection: HttpConnection, exchange: Exchange, head: RequestHead, body: BodyReader | None) -> bool:
    redirect = exchange.rule.redirect
    assert redirect is not None
    exchange.status = redirect.status
    keep = _goes_on(connection, head, body)
    fields = line(exchange.request_id) if exchange.request_id else b""
    location = redirect.location(connection.scheme, head.host, head.path, head.target[len(head.path) :])
    return connection.answer(exchange, redirect_answer(redirect.status, location, head, keep, fields)) and keep


def _goes_on(connection: HttpConnection, head: RequestHead, body: BodyReader | None) -> bool:
    return head.keep_alive and (body is None or body.done) and not connection.server.draining


def _answer_failure(
    connection: HttpConnection, exchange: Exchange, body: BodyReader | None, failure: ExchangeFailed
) -> bool:
    """Tell the client, if it can still be told, and say whether its connection can go on."""
    reason = failure.reason
    exchange.fail(reason, failure.detail)
    plane = connection.server.plane
    if reason is RATE_LIMITED:
        plane.rate_limited(exchange.limited_by, exchange.client, exchange.start, **exchange.ids())
    elif reason is IDENTITY_DENIED:
        plane.metrics.count(Metric.AUTHORIZATION_DENIED, (connection.server.listener.name, exchange.route))
    elif exchange.endpoint is not None and reason is not CLIENT_ABORT:
        _tell(connection, exchange, failure)
    if exchange.started:
        return False
    exchange.status = reason.status
    if reason is CLIENT_ABORT:
        return False
    head = exchange.head
    assert head is not None
    keep = _goes_on(connection, head, body)
    if reason.blame is Blame.CLIENT and reason is not RATE_LIMITED:
        keep = False  # after a request that broke the rules nothing more is taken, even where all of it was read
    answer = local_answer(
        reason,
        version=head.version,
        keep_alive=keep,
        head_only=head.method == b"HEAD",
        retry_after=None if failure.retry_after is None else whole_seconds(failure.retry_after),
        fields=failure.fields + line(exchange.request_id) if exchange.request_id else failure.fields,
    )
    return connection.answer(exchange, answer) and keep


def _fresh_id() -> bytes:
    return urandom(16).hex().encode("ascii")


def _forget(failure: ExchangeFailed) -> None:
    """The frames that a failure went through hold it, and all buffers of the exchange: no wait for the collector."""
    failure.__traceback__ = failure.__context__ = None


def _tell(connection: HttpConnection, exchange: Exchange, failure: ExchangeFailed) -> None:
    """A try at an endpoint failed: say so in the event log."""
    endpoint = exchange.endpoint
    if endpoint is None or failure.reason.blame is not Blame.UPSTREAM:
        return
    connection.server.plane.events.warning(
        Event.UPSTREAM_ERROR,
        service=endpoint.service,
        upstream=endpoint.name,
        reason=failure.reason.word,
        error=failure.detail or failure.reason.text,
        method=_method(exchange),
        tries=exchange.retries + 1,
        **exchange.ids(),
    )


def _method(exchange: Exchange) -> str:
    return exchange.head.method.decode("ascii") if exchange.head is not None else ""
