"""A request body on its way up, in a greenlet of its own, while the answer is already being waited for."""

from __future__ import annotations

from time import monotonic

from gevent import Greenlet

from charon.base.errors import (
    BODY_TOO_LARGE,
    CLIENT_ABORT,
    CLIENT_TOO_SLOW,
    REQUEST_DEADLINE,
    UPSTREAM_IDLE,
    BadMessage,
    ExchangeFailed,
    Reason,
)
from charon.net.flow import Flow
from charon.net.stream import DeadlineExceeded, Stream
from charon.net.tasks import spawn
from charon.policy.pace import patience as pace
from charon.proxy.body import BodyReader, BodyTruncated
from charon.wire.chunked import encode_chunk, encode_last


class Upload:
    """Copies what is left of ``body`` to ``upstream``, a large rest that is not kept on the way for bulk.

    ``done`` says that all of it was sent; the wait for the response head then gets ``patience`` seconds from that
    moment on. ``kept`` holds what was taken from the client, as it was sent, while it is at most ``keep`` bytes: so
    much can be sent again; None when it is more. When the client fails, whoever waits for the upstream's answer gets
    the ExchangeFailed. When the upstream stops taking the body, the upload just ends: the upstream's answer, or the
    lack of one, says why.

    ``stall`` is how many seconds may pass without a byte from the client, ``rate`` how many bytes a second it has to
    send on average (None: no matter how many), from its first byte on: before that it may be waiting for a 100.
    """

    __slots__ = (
        "_body", "_chunked", "_flow", "_flows", "_idle", "_keep", "_limit", "_patience", "_rate", "_stall", "_taken",
        "_task", "_waited", "done", "kept", "upstream",
    )  # fmt: skip

    def __init__(
        self,
        body: BodyReader,
        upstream: Stream,
        *,
        chunked: bool,
        limit: int | None,
        idle: float,
        stall: float,
        rate: int | None,
        patience: float,
        keep: int,
    ) -> None:
        self._body = body
        self._chunked = chunked
        self._flow: Flow | None = None
        self._flows = not chunked  # until it is known that it has none
        self._limit = limit
        self._idle = idle
        self._stall = stall
        self._rate = rate
        self._taken = 0
        self._waited = 0.0
        self._patience = patience
        self.upstream = upstream
        self.done = False
        self.kept: bytearray | None = bytearray() if keep else None
        self._keep = keep
        self._task: Greenlet[..., None] = spawn("upload", self._run)

    def stop(self) -> None:
        """End the copying wherever it is."""
        if not self._task.dead:
            self._task.kill()

    def _run(self) -> None:
        try:
            while self._copy_piece():
                pass
        except ExchangeFailed as failure:
            self.upstream.interrupt(failure)
        except OSError:
            return  # the upstream closed; what it said before that is read by whoever waits for its answer
        finally:
            if self._flow is not None:
                self._flow.close()

    def _copy_piece(self) -> bool:
        if self._flows and self.kept is None:
            self._flows = False
            self._flow = self._body.flow_to(self.upstream)
        piece = self._next()
        if self._limit is not None and self._body.size > self._limit:
            raise ExchangeFailed(BODY_TOO_LARGE, f"more than {self._limit} bytes")
        last = self._body.done
        try:
            if self._flow is not None:
                self._flow.give(piece, self._idle)
            elif not isinstance(piece, int):
                self._send(piece, last=last)
        except DeadlineExceeded:
            raise self._late(UPSTREAM_IDLE, f"took nothing of the body for {self._idle:g} s") from None
        if last:
            self.done = True
            self.upstream.rearm(self._patience)
        return not last

    def _send(self, piece: bytes, *, last: bool) -> None:
        if self._chunked:
            piece = encode_chunk(piece) + (encode_last(self._body.trailers) if last else b"")
        if self.kept is not None:
            if len(self.kept) + len(piece) > self._keep:
                self.kept = None
            else:
                self.kept += piece
        if piece:
            self.upstream.write(piece, self._idle)

    def _next(self) -> bytes | int:
        rate = self._rate
        if rate is None or not self._taken:
            piece = self._read(self._stall, f"no byte of the body for {self._stall:g} s")
        else:
            began = monotonic()
            left = pace(rate, self._taken, self._waited)
            if left < self._stall:
                piece = self._read(max(0.0, left), f"less than {rate} bytes of the body a second")
            else:
                piece = self._read(self._stall, f"no byte of the body for {self._stall:g} s")
            self._waited += monotonic() - began
        self._taken += piece if isinstance(piece, int) else len(piece)
        return piece

    def _read(self, patience: float, late: str) -> bytes | int:
        """The next piece, within ``patience`` seconds; ``late`` says what it means when it does not come."""
        try:
            flow = self._flow
            return self._body.next(patience) if flow is None else self._body.take(flow, patience)
        except BodyTruncated:
            reason, detail = CLIENT_ABORT, "closed in the middle of the body"
        except OSError as error:
            reason, detail = CLIENT_ABORT, str(error)
        except DeadlineExceeded:
            raise self._late(CLIENT_TOO_SLOW, late) from None
        except BadMessage as bad:
            reason, detail = bad.reason, bad.detail
        raise ExchangeFailed(reason, detail)

    def _late(self, reason: Reason, detail: str) -> ExchangeFailed:
        """What a missed deadline means: the exchange's own, when that has passed, else ``reason``."""
        if monotonic() >= self._body.stream.cutoff:
            return ExchangeFailed(REQUEST_DEADLINE, "the whole request took too long")
        return ExchangeFailed(reason, detail)
