"""One try of a request at one endpoint: send it, watch for the answer, pass the answer on."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent

from charon.base.errors import (
    CLIENT_ABORT,
    CLIENT_TOO_SLOW,
    DRAINING,
    INTERNAL,
    REQUEST_DEADLINE,
    RESPONSE_TIMEOUT,
    UPSTREAM_IDLE,
    UPSTREAM_MALFORMED,
    UPSTREAM_RESET,
    UPSTREAM_STATUS,
    UPSTREAM_TLS_FAILED,
    UPSTREAM_TRUNCATED,
    BadMessage,
    Blame,
    ExchangeFailed,
    Reason,
)
from charon.net.accept import why
from charon.net.deadlines import NEVER
from charon.net.flow import Flow
from charon.net.relay import Relay
from charon.net.stream import DeadlineExceeded, Peer, Stream
from charon.net.tasks import spawn
from charon.net.tls_stream import TlsStream
from charon.policy.retry import TryOutcome
from charon.proxy.body import BodyReader, BodyTruncated
from charon.proxy.introduction import hello
from charon.proxy.respond import http_date
from charon.proxy.spans import peer_of, record_try
from charon.proxy.upload import Upload
from charon.wire.chunked import encode_chunk, encode_last
from charon.wire.framing import answer_framing
from charon.wire.messages import CHUNKED, UNTIL_CLOSE, ResponseHead, parse_response, serialize_response
from charon.wire.request_id import line, without

if TYPE_CHECKING:
    from charon.proxy.endpoint import Endpoint
    from charon.proxy.exchange import Exchange
    from charon.proxy.http import HttpConnection
    from charon.proxy.listener import Listener

_LONG_ANSWER = 1.0
"""Seconds of a good answer after which a breaker's trial need not wait for the rest: streams may never end."""

_MAX_INTERIM = 32
"""Interim answers (1xx) to one request; each of them starts the wait for the final one anew."""

_BROKEN: Final = (BodyTruncated, OSError, DeadlineExceeded, BadMessage)
_UNTAKEN: Final = (DeadlineExceeded, OSError)


class Attempt:
    """One try. After :meth:`run` has returned, ``keep`` says whether the client's connection can go on.

    ``reused`` tells a pooled connection, which may have gone stale, from a fresh one. ``may_discard`` decides whether
    an answer is dropped for another try, before anything of it is passed on; ``discarded`` says that it was. ``answer``
    is the head of the final answer, ``peer`` the address that is connected to, where a span is to be made of the try.

    Every try ends as evidence about its endpoint, once, or explicitly as none: a breaker's trial is never left hanging.
    A good answer is evidence when it is complete: one that is cut off is a failure, however well it began.
    """

    __slots__ = (
        "_began",
        "_counted",
        "_keep_bytes",
        "_may_discard",
        "_sent_before",
        "_trial",
        "answer",
        "body",
        "client",
        "connection",
        "discarded",
        "endpoint",
        "exchange",
        "keep",
        "listener",
        "peer",
        "received",
        "reused",
        "stream",
        "upload",
    )

    def __init__(
        self,
        connection: HttpConnection,
        exchange: Exchange,
        listener: Listener,
        endpoint: Endpoint,
        body: BodyReader | None,
        trial: bool,
        keep_bytes: int,
        may_discard: Callable[[TryOutcome], bool],
    ) -> None:
        self.connection = connection
        self.client = connection.stream
        self.exchange = exchange
        self.listener = listener
        self.endpoint = endpoint
        self.body = body
        self.stream: Stream | None = None
        self.upload: Upload | None = None
        self.answer: ResponseHead | None = None
        self.peer: Any = None
        self.reused = False
        self.received = 0
        self.keep = False
        self.discarded = False
        self._keep_bytes = keep_bytes
        self._may_discard = may_discard
        self._trial = trial
        self._counted = False
        self._began = 0.0
        self._sent_before = 0

    def run(self, request: bytes, per_try_timeout: float | None, *, fresh: bool) -> None:
        """Send ``request`` (its head and as much of its body as is at hand) and pass the answer on.

        ``fresh`` asks for a new connection. Raises ExchangeFailed; the exchange says whether the answer had begun.
        """
        self._began = monotonic()
        try:
            self._run(request, per_try_timeout, fresh)
        except ExchangeFailed as failure:
            self._end(failure.reason, judged=self._judge(failure))
            raise
        except BaseException:
            self._end(INTERNAL, judged=False)
            raise
        self._end(None, judged=True)

    def _end(self, reason: Reason | None, *, judged: bool) -> None:
        """The try is over, for ``reason`` if it failed; ``judged``: it was evidence about its endpoint."""
        if not judged:
            self._release()
        trace = self.exchange.trace
        if trace is not None and trace.recorded:
            record_try(self, trace, self._began, monotonic(), reason)

    def _judge(self, failure: ExchangeFailed) -> bool:
        """A failure that is the endpoint's fault counts against it. Returns whether it was."""
        if failure.reason.blame is not Blame.UPSTREAM or self.stale(failure):
            return False
        if not self._counted and not self.discarded:
            self._count(well=False)
        return True

    def stale(self, failure: ExchangeFailed) -> bool:
        """Whether a pooled connection turned out to have ended, which says nothing about its endpoint."""
        return self.reused and failure.reason is UPSTREAM_RESET and self.received == 0

    def _count(self, *, well: bool) -> None:
        """Evidence about the endpoint."""
        self._counted = True
        state = self.endpoint.state
        if state is not None:
            trial, self._trial = self._trial, False
            (state.success if well else state.failure)(monotonic(), self._began, trial=trial)

    def _well(self) -> None:
        """The answer is complete and was a good one. Where there is nothing to say of the endpoint, neither is that.

        Counted before the client has the last of it, so that what it asks next finds it counted in any worker.
        """
        state = self.endpoint.state
        if state is not None and not self._counted and (self._trial or not state.plain()):
            self._count(well=True)

    def _well_in_time(self) -> None:
        gevent.sleep(_LONG_ANSWER)
        self._well()

    def _release(self) -> None:
        """No evidence: if this was the breaker's trial, the next request is."""
        if self._trial and self.endpoint.state is not None:
            self.endpoint.state.release()
            self._trial = False

    def _run(self, request: bytes, per_try_timeout: float | None, fresh: bool) -> None:
        endpoint = self.endpoint
        pool = endpoint.pool  # this one even if the endpoint gets another: it goes with the TLS that is dialled with
        stream = None if fresh else pool.take()
        if stream is None:
            stream = self._dial()
        else:
            self.reused = True
            endpoint.metrics.reused()
        self.stream = stream
        trace = self.exchange.trace
        if trace is not None and trace.recorded:
            self.peer = peer_of(stream)
        self._sent_before = stream.sent
        self.client.cutoff = self.exchange.cutoff
        stream.cutoff = self._try_cutoff(per_try_timeout)
        endpoint.in_flight += 1
        reusable = False
        try:
            self._send(stream, request)
            response, rest = self._read_head(stream)
            self._answered(response)
            stream.cutoff = self.exchange.cutoff
            if response.status == 101:
                if self.upload is not None and not self.upload.done:
                    raise ExchangeFailed(UPSTREAM_MALFORMED, "switches protocols before it has the whole request")
                self._well()
                self._tunnel(stream, response, rest)
            else:
                watch = spawn("trial", self._well_in_time) if self._trial else None
                try:
                    reusable = self._pass_on(stream, response, rest)
                finally:
                    if watch is not None:
                        watch.kill()
        finally:
            endpoint.in_flight -= 1
            if self.upload is not None:
                self.upload.stop()
            if reusable and not stream.closed and not self.listener.keeps_client:
                pool.put(stream)
            else:
                stream.close()

    def _try_cutoff(self, per_try_timeout: float | None) -> float:
        if per_try_timeout is None:
            return self.exchange.cutoff
        return min(self.exchange.cutoff, self._began + per_try_timeout)

    def _answered(self, response: ResponseHead) -> None:
        """The endpoint has answered. An error is evidence at once, and may be reason enough to ask another one."""
        self.answer = response
        well = response.status < 500
        if not well:
            self._count(well=False)
        if self.exchange.watches_latency:
            now = monotonic()
            self.endpoint.observe(now - self._began, now)
            if self.exchange.place is not None:
                self.exchange.place.answered(now, well=well)
        if response.status >= 400:
            head = self.exchange.head
            assert head is not None
            outcome = TryOutcome(None, head.method, 1, self.received, self._replayable(), response.status)
            if self._may_discard(outcome):
                self.discarded = True
                if well:
                    self._well()
                raise ExchangeFailed(UPSTREAM_STATUS, f"status {response.status}")

    def _replayable(self) -> bool:
        """Whether the whole request can be sent again: nothing has gone to the endpoint, or what has is kept."""
        if self.stream is None:
            return True
        if self.upload is not None:
            return self.upload.kept is not None
        return self.body is None or self.body.size <= self._keep_bytes

    def replay(self, request: bytes) -> bytes:
        """``request`` with what an upload has taken from the client and sent since, to be sent again."""
        return request if self.upload is None or self.upload.kept is None else request + bytes(self.upload.kept)

    def _dial(self) -> Stream:
        """A new connection, within what is left of the exchange's time. Raises ExchangeFailed."""
        timeout = min(self.exchange.timeouts.connect, self.exchange.cutoff - monotonic())
        if timeout <= 0:
            raise self._late(REQUEST_DEADLINE, "")
        try:
            opening = hello(self.connection, self.endpoint.proxy_header)
            source = self.connection.client if self.listener.keeps_client else ""
            return self.endpoint.dial(timeout, self.connection.wait_on, opening, source)
        except ExchangeFailed as failure:
            raise self._late(failure.reason, failure.detail) from None
        finally:
            self.connection.waits_on = None

    def outcome(self, reason: Reason) -> TryOutcome:
        """How this try failed, for the decision on another one."""
        sent = self.stream.sent - self._sent_before if self.stream is not None else 0
        head = self.exchange.head
        assert head is not None
        return TryOutcome(reason, head.method, sent, self.received, self._replayable(), passed_on=self.exchange.started)

    # -- the request --------------------------------------------------------------------------------------------

    def _send(self, stream: Stream, request: bytes) -> None:
        timeouts = self.exchange.timeouts
        try:
            stream.write(request, timeouts.idle)
        except DeadlineExceeded:
            raise self._late(UPSTREAM_IDLE, f"took nothing of the request for {timeouts.idle:g} s") from None
        except OSError as error:
            # It may have answered before it closed; if not, reading says so.
            if stream.peer() is not Peer.OPEN:
                raise _lost(error, stream) from None
            return
        if self.body is not None and not self.body.done:
            self.upload = Upload(
                self.body,
                stream,
                chunked=self._request_chunked(),
                limit=self.listener.max_body,
                idle=timeouts.idle,
                stall=min(timeouts.client_body, timeouts.idle),
                rate=self.listener.min_body_rate,
                patience=timeouts.response_headers,
                keep=max(0, self._keep_bytes - self.body.size),
            )

    def _request_chunked(self) -> bool:
        head = self.exchange.head
        return head is not None and head.body == CHUNKED

    # -- the response head --------------------------------------------------------------------------------------

    def _read_head(self, stream: Stream) -> tuple[ResponseHead, bytes]:
        """The final response head and what was read beyond it; interim ones are passed on (RFC 9110 section 15.2)."""
        self.connection.waits_on = stream
        whole = 0.0
        interim = 0
        try:
            data = stream.read_later(self._patience())
            while True:
                if not data:
                    raise ExchangeFailed(UPSTREAM_RESET, "closed before it answered")
                self.received = len(data)
                parsed = self._parse(data)
                if parsed is None:
                    # The head began to come: from now on it is timed whole.
                    whole = whole or monotonic() + self._patience()
                    stream.cutoff = min(stream.cutoff, whole)
                    more = stream.read(NEVER)
                    if not more:
                        raise ExchangeFailed(UPSTREAM_RESET, "closed in the middle of the response head")
                    data += more
                    continue
                head, used = parsed
                if head.status >= 200 or head.status == 101:
                    return head, data[used:]
                interim += 1
                if interim > _MAX_INTERIM:
                    raise ExchangeFailed(UPSTREAM_MALFORMED, "interim answers without end")
                self._pass_interim(head)
                data = data[used:] or stream.read(self._patience())
        except DeadlineExceeded:
            raise self._late(RESPONSE_TIMEOUT, "no response head in time") from None
        except OSError as error:
            raise _lost(error, stream) from None
        finally:
            self.connection.waits_on = None

    def _patience(self) -> float:
        """While the body is still going up there is no response to wait for; the upload sets the time when it ends."""
        return NEVER if self.upload is not None and not self.upload.done else self.exchange.timeouts.response_headers

    def _parse(self, data: bytes) -> tuple[ResponseHead, int] | None:
        head = self.exchange.head
        assert head is not None
        try:
            parsed = parse_response(data, head.method, self.listener.head_limits)
        except BadMessage as bad:
            raise ExchangeFailed(UPSTREAM_MALFORMED, bad.detail) from None
        if parsed is not None and parsed[0].status == 101 and head.upgrade is None:
            raise ExchangeFailed(UPSTREAM_MALFORMED, "switches protocols unasked")
        return parsed

    def _pass_interim(self, interim: ResponseHead) -> None:
        head = self.exchange.head
        if head is not None and head.version == 11:
            self._to_client(serialize_response(interim, 11, b"", b""))

    # -- the response -------------------------------------------------------------------------------------------

    def _pass_on(self, stream: Stream, response: ResponseHead, rest: bytes) -> bool:
        """Stream the response to the client. Returns whether the upstream connection may serve again."""
        exchange = self.exchange
        head = exchange.head
        assert head is not None
        uploaded = (self.body is None or self.body.done) and (self.upload is None or self.upload.done)
        framing, length = answer_framing(
            response.body, response.declared_length, response.status, head.method, head.version
        )
        to_close = length == UNTIL_CLOSE
        self.keep = head.keep_alive and uploaded and not to_close and not self.connection.server.draining
        extra = b"" if response.has_date else b"Date: %b\r\n" % http_date()
        if not self.keep:
            extra += b"Connection: close\r\n"
        elif head.version == 10:
            extra += b"Connection: keep-alive\r\n"
        exchange.status = response.status
        edits = exchange.rule.response_edits
        if edits is not None:
            response.fields = edits.apply(response.fields)
        if exchange.set_cookie is not None:
            extra += b"Set-Cookie: %b\r\n" % exchange.set_cookie
        if exchange.request_id:
            response.fields = without(response.fields)
            extra += line(exchange.request_id)
        out = serialize_response(response, head.version, framing, extra)
        # A client that was told to close after an unfinished upload is not read from any more; neither is the upstream.
        reusable = response.keep_alive and uploaded
        if response.body == len(rest):  # all of it has come along with the head, as most answers do
            exchange.started = True
            self._well()
            self._to_client(out + rest)
            exchange.bytes_out = len(rest)
            return reusable
        reader = BodyReader(stream, response.body, rest, UPSTREAM_MALFORMED, self.listener.head_limits)
        self.connection.endless = response.body < 0
        try:
            self._stream_on(reader, out, chunked=length == CHUNKED)
        except ExchangeFailed as failure:
            if to_close and exchange.started and failure.reason.blame is not Blame.CLIENT:
                self.client.reset()  # without a length, only a reset tells a broken body from a complete one
            raise
        finally:
            self.connection.passes_on = None
            exchange.bytes_out = reader.size
        return reusable and not reader.leftover

    def _stream_on(self, reader: BodyReader, out: bytes, *, chunked: bool) -> None:
        """Send ``out``, the head, and the body as it comes, each piece when the client has taken the one before."""
        self.connection.passes_on = reader.stream
        piece = self._next(reader, buffered=True)
        may_flow = not chunked
        while True:
            if chunked:
                out += encode_chunk(piece) + (encode_last(reader.trailers) if reader.done else b"")
            else:
                out += piece
            if reader.done:
                self._well()
            self.exchange.started = True
            if out:
                self._to_client(out)
            if reader.done:
                return
            if may_flow:
                may_flow = False  # what is left only gets less
                flow = reader.flow_to(self.client)
                if flow is not None:
                    self._flow_on(reader, flow)
                    return
            out = b""
            piece = self._next(reader)

    def _flow_on(self, reader: BodyReader, flow: Flow) -> None:
        """Send the rest of a large body, which goes on as it comes."""
        idle = self.exchange.timeouts.idle
        try:
            while not reader.done:
                try:
                    taken = reader.take(flow, idle)
                except _BROKEN as error:
                    raise self._broken(error) from None
                if reader.done:
                    self._well()
                try:
                    flow.give(taken, idle)
                except _UNTAKEN as error:
                    raise self._untaken(error) from None
        finally:
            flow.close()
            reader.size -= flow.held  # the client did not get those

    def _next(self, reader: BodyReader, *, buffered: bool = False) -> bytes:
        try:
            return reader.buffered() if buffered else reader.next(self.exchange.timeouts.idle)
        except _BROKEN as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> ExchangeFailed:
        """What it means that the upstream's body cannot be read on."""
        if isinstance(error, DeadlineExceeded):
            return self._late(UPSTREAM_IDLE, f"no byte of the body for {self.exchange.timeouts.idle:g} s")
        if isinstance(error, BadMessage):
            return ExchangeFailed(UPSTREAM_MALFORMED, error.detail)
        detail = why(error) if isinstance(error, OSError) else "closed in the middle of the body"
        return ExchangeFailed(UPSTREAM_TRUNCATED, detail)

    def _to_client(self, data: bytes) -> None:
        try:
            self.client.write(data, self.exchange.timeouts.idle)
        except _UNTAKEN as error:
            raise self._untaken(error) from None

    def _untaken(self, error: Exception) -> ExchangeFailed:
        """What it means that the client does not take the answer."""
        if isinstance(error, OSError):
            return ExchangeFailed(CLIENT_ABORT, why(error))
        return self._late(CLIENT_TOO_SLOW, f"took nothing of the answer for {self.exchange.timeouts.idle:g} s")

    def _late(self, reason: Reason, detail: str) -> ExchangeFailed:
        """What a missed deadline means: the exchange's own, when that has passed, else ``reason``."""
        if monotonic() >= self.exchange.cutoff:
            return ExchangeFailed(REQUEST_DEADLINE, "the whole request took too long")
        return ExchangeFailed(reason, detail)

    # -- upgrades -----------------------------------------------------------------------------------------------

    def _tunnel(self, stream: Stream, response: ResponseHead, rest: bytes) -> None:
        """After 101 the two connections are joined (RFC 9110 section 7.8), until both sides end."""
        connection = self.connection
        exchange = self.exchange
        upgrade = response.upgrade or (exchange.head.upgrade if exchange.head is not None else None) or b""
        extra = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade
        if exchange.request_id:
            response.fields = without(response.fields)
            extra += line(exchange.request_id)
        exchange.status = 101
        exchange.started = True
        idle = self.exchange.timeouts.idle
        stream.cutoff = self.client.cutoff = NEVER
        self._to_client(serialize_response(response, 11, b"", extra) + rest)
        received, sent = self.client.received, self.client.sent
        early, connection.buffer = connection.buffer, b""
        if self.body is not None:
            early, self.body.leftover = self.body.leftover, b""  # then the buffer went to the body's reader
        if early:
            stream.write(early, idle)
        relay = Relay(self.client, stream, idle)
        connection.relay = relay
        relay.run(f"upgrade {connection.client}")
        exchange.bytes_in += len(early) + self.client.received - received
        exchange.bytes_out += len(rest) + self.client.sent - sent
        if relay.reason is None:
            return
        exchange.fail(relay.reason, relay.detail)
        if relay.reason is DRAINING and upgrade.lower() == b"websocket":
            self.client.close()  # one that ends without its closing frame is known to be cut; what was sent may arrive
            return
        stream.reset()  # an orderly end would tell either side that it has everything
        self.client.reset()


def _lost(error: OSError, stream: Stream) -> ExchangeFailed:
    """An upstream connection broke before an answer. In TLS 1.3 a server says only now that it does not accept us."""
    failure = stream.failure if isinstance(stream, TlsStream) else None
    if failure is not None and failure.refused:
        return ExchangeFailed(UPSTREAM_TLS_FAILED, failure.detail)
    return ExchangeFailed(UPSTREAM_RESET, why(error))
