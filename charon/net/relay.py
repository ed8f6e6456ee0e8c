"""Joining two streams: a copier for each direction, each with its half-close, until both have ended.

Trust: hands on whatever the peers send; nothing here looks at it.
"""

from __future__ import annotations

import os
from time import monotonic

from charon.base.errors import CLIENT_ABORT, IDLE_TIMEOUT, UPSTREAM_RESET, Reason
from charon.net.flow import Flow
from charon.net.stream import DeadlineExceeded, Stream
from charon.net.tasks import spawn


class RelayEnded(Exception):
    """Thrown into the other direction's wait when one direction has failed."""


class Relay:
    """Two streams being joined.

    When :meth:`run` returns, ``reason`` says why it ended early, or is None when both sides simply finished.
    """

    __slots__ = ("client", "detail", "early", "idle", "last_byte", "reason", "upstream")

    def __init__(self, client: Stream, upstream: Stream, idle: float, early: bytes = b"") -> None:
        """``early`` are bytes of the client's that were read before; they go first."""
        self.early = early
        self.client = client
        self.upstream = upstream
        self.idle = idle
        self.reason: Reason | None = None
        self.detail = ""
        self.last_byte = monotonic()

    def run(self, name: str) -> None:
        """Copy until both directions have ended, one has failed, or nothing moved either way for ``idle`` seconds.

        Uses the calling greenlet for one direction and another one, called ``name``, for the other. Closes neither
        stream. Does not raise for anything that the peers do.
        """
        copier = spawn(name, _Direction(self, self.client, self.upstream, CLIENT_ABORT, UPSTREAM_RESET).run)
        try:
            _Direction(self, self.upstream, self.client, UPSTREAM_RESET, CLIENT_ABORT).run()
            copier.join()
        finally:
            copier.kill()

    def notice_departure(self) -> None:
        """End when the client has reset while the upstream does not read: no copier is looking at it then.

        An upstream that resets is not looked for: what it sent before is the client's, and is passed on first.
        """
        if self.upstream.write_stalls() and self.client.reset_by_peer():
            self.end(CLIENT_ABORT, "reset while the upstream does not read")

    def end(self, reason: Reason, detail: str) -> None:
        """Note why the relay ends (the first reason counts) and stop both directions."""
        if self.reason is None:
            self.reason = reason
            self.detail = detail
        self.client.interrupt(RelayEnded())
        self.upstream.interrupt(RelayEnded())


class _Direction:
    """One direction. ``source_lost`` and ``target_lost`` are the reasons for losing either end."""

    __slots__ = ("flow", "relay", "source_lost", "target_lost")

    def __init__(self, relay: Relay, source: Stream, target: Stream, source_lost: Reason, target_lost: Reason) -> None:
        self.relay = relay
        self.flow = Flow(source, target)
        self.source_lost = source_lost
        self.target_lost = target_lost

    def run(self) -> None:
        relay, flow = self.relay, self.flow
        lost = self.source_lost
        try:
            if relay.early and flow.source is relay.client:
                lost = self.target_lost
                flow.give(relay.early, relay.idle)
            while True:
                lost = self.source_lost
                data = self._take()
                if not data:
                    break
                lost = self.target_lost
                flow.give(data, relay.idle)
                relay.last_byte = monotonic()
            lost = self.target_lost
            flow.target.finish_writing(relay.idle)
        except DeadlineExceeded:
            relay.end(IDLE_TIMEOUT, f"nothing moved for {relay.idle:g} s")
        except OSError as error:
            relay.end(lost, os.strerror(error.errno or 0))
        except RelayEnded:
            pass  # the other direction has failed and has said why
        finally:
            flow.close()

    def _take(self) -> bytes | int:
        """What comes next, waiting for up to ``idle`` seconds in which neither direction moves."""
        relay = self.relay
        while True:
            try:
                return self.flow.take(relay.idle)
            except DeadlineExceeded:
                if monotonic() - relay.last_byte >= relay.idle:
                    raise
