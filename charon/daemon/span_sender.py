"""Spans on their way to one collector: a bounded queue and a thread that sends batches from it.

Runs in the exporter's process, which has threads and blocking sockets of its own: a library that hangs there hangs
nobody else. How a batch is sent is handed in.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from charon.telemetry.spans import DropReason, Span

CAPACITY: Final = 8192
"""Spans that wait for a collector; the oldest give way to new ones."""

BATCH: Final = 512
LINGER_SECONDS: Final = 0.5
"""How long spans wait for more of them, so that collectors get batches."""

TRIES: Final = 3
PAUSE_SECONDS: Final = 1.0
"""Before a batch is tried again; twice that before the next time."""


class Unreachable(Exception):
    """The collector could not be asked, or did not answer in time; it may be there again later."""


class Refused(Exception):
    """The collector has answered that it does not take this batch."""


Send = Callable[[Sequence[Span]], None]
"""Sends a batch. Raises Unreachable or Refused, each with the reason as its text."""


@dataclass
class Counts:
    """What became of spans. ``error`` is why the newest try that failed did."""

    exported: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    error: str = ""


class SpanSender:
    """The way to the collector called ``name``."""

    def __init__(self, name: str, send: Send, *, pause: float = PAUSE_SECONDS, linger: float = LINGER_SECONDS) -> None:
        self.name = name
        self._send = send
        self._pause = pause
        self._linger = linger
        self._queue: deque[Span] = deque()
        self._under_way = 0
        self._stopping = False
        self._changed = threading.Condition()
        self._counts = Counts()
        self._thread = threading.Thread(target=self._run, name=f"{name} sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, spans: Sequence[Span]) -> None:
        """Queue spans. Where there is no room, the oldest are dropped."""
        with self._changed:
            self._queue.extend(spans)
            over = len(self._queue) - CAPACITY
            if over > 0:
                for _ in range(over):
                    self._queue.popleft()
                self._counts.dropped[DropReason.EXPORTER_QUEUE] += over
            if len(self._queue) >= BATCH or len(self._queue) == len(spans):
                self._changed.notify_all()

    def stop(self) -> None:
        """Send what there is without waiting for more or trying again, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the end for ``timeout`` seconds. What is left then is dropped."""
        self._thread.join(max(0.0, timeout))
        with self._changed:
            left = len(self._queue) + self._under_way
            if left:
                self._queue.clear()
                self._under_way = 0
                self._counts.dropped[DropReason.SHUTDOWN] += left

    def take_counts(self) -> Counts:
        """What has been counted since the last call."""
        with self._changed:
            counts, self._counts = self._counts, Counts()
            return counts

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next_batch():
            reason = self._deliver(batch)
            with self._changed:
                if not self._under_way:
                    return  # it was given up meanwhile
                self._under_way = 0
                if reason is not None:
                    self._counts.dropped[reason] += len(batch)
                else:
                    self._counts.exported += len(batch)

    def _deliver(self, batch: Sequence[Span]) -> str | None:
        """Send it, trying again while nobody answers. Returns why it is dropped; None when it is not."""
        for tried in range(1, TRIES + 1):
            try:
                self._send(batch)
                return None
            except Refused as error:
                self._note(error)
                return DropReason.REFUSED
            except Unreachable as error:
                self._note(error)
            if tried == TRIES or not self._wait(self._pause * tried):
                break
        return DropReason.UNREACHABLE

    def _note(self, error: Exception) -> None:
        with self._changed:
            self._counts.error = str(error)

    def _wait(self, seconds: float) -> bool:
        """Returns whether the time passed without an order to stop."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopping, seconds)

    def _next_batch(self) -> list[Span]:
        """The oldest spans, once there are enough or the first has waited long enough; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._queue)
            self._changed.wait_for(lambda: self._stopping or len(self._queue) >= BATCH, self._linger)
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._under_way = len(batch)
            return batch
