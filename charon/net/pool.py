"""Idle upstream connections of one endpoint, kept for reuse.

Last in, first out, so that a burst's surplus ages away. A connection is handed out only when it is proven quiet: one
that the upstream has closed is of no use, and one with unread bytes would answer the wrong request.
"""

from __future__ import annotations

from time import monotonic

from charon.net.stream import Stream

MAX_IDLE = 256
"""Idle connections kept per endpoint and process."""

MAX_IDLE_SECONDS = 60.0
"""Upstreams commonly close idle connections after 60 to 75 s; we go first, whatever a longer ``idle`` says."""


class Pool:
    """The idle connections of one endpoint in this process."""

    __slots__ = ("_idle", "_limit", "closed")

    def __init__(self, limit: int | None = None) -> None:
        self._limit = MAX_IDLE if limit is None else limit
        self._idle: list[Stream] = []
        self.closed = False

    def __len__(self) -> int:
        return len(self._idle)

    def __repr__(self) -> str:
        return f"<Pool idle={len(self._idle)}{' closed' if self.closed else ''}>"

    def take(self) -> Stream | None:
        """A quiet connection, or None when there is none."""
        idle = self._idle
        while idle:
            stream = idle.pop()
            if stream.quiet():
                return stream
            stream.close()
        return None

    def put(self, stream: Stream) -> None:
        """Keep ``stream``, whose last exchange is complete, for reuse."""
        if self.closed or len(self._idle) >= self._limit:
            stream.close()
            return
        stream.idle_since = monotonic()
        self._idle.append(stream)

    def sweep(self, now: float, idle_seconds: float) -> None:
        """Close what has been idle too long or is no longer quiet."""
        oldest = now - min(idle_seconds, MAX_IDLE_SECONDS)
        kept = []
        for stream in self._idle:
            if stream.idle_since > oldest and stream.quiet():
                kept.append(stream)
            else:
                stream.close()
        self._idle = kept

    def close_idle(self) -> None:
        """Close all idle connections."""
        idle, self._idle = self._idle, []
        for stream in idle:
            stream.close()

    def close(self) -> None:
        """Close all idle connections and keep none from now on (the endpoint has left)."""
        self.closed = True
        self.close_idle()
