"""The one door to recv and send: a non-blocking socket, read and written in blocking style, with deadlines and counts.

Every wait is bounded. ``patience`` is how many seconds one wait may last with nothing happening; ``cutoff`` is a
moment (monotonic seconds) past which no wait goes on, for a head or an exchange that is bounded as a whole.
Trust: hands on whatever the peer sent; nothing here looks at it.
"""

from __future__ import annotations

import select
import socket as std
import struct
from _socket import socket as RawSocket
from enum import Enum
from errno import ENOTCONN
from time import monotonic
from typing import Any, ClassVar

import gevent
from gevent import get_hub
from gevent.monkey import get_original

from charon.net.deadlines import NEVER, deadlines

READ_SIZE = 65_536
TURNS = 16
"""Reads in a row that find bytes waiting before other connections get their turn."""
_READ, _WRITE = 1, 2
_PEEK = std.MSG_PEEK | std.MSG_DONTWAIT
_poll = get_original("select", "poll")  # asked with no time to wait: nothing to cooperate about
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Peer(Enum):
    """What can be known of the other side without reading."""

    OPEN = "open"
    ENDED = "ended"
    RESET = "reset"


class DeadlineExceeded(Exception):
    """A wait lasted longer than its patience, or went past the stream's cutoff."""


class _Room:
    """The wait for room to write. Its deadline is not the reader's: while a body goes up, its answer is awaited."""

    __slots__ = ("deadline", "looked_at", "tick", "watcher")

    def __init__(self, watcher: Any) -> None:
        self.watcher = watcher
        self.deadline = NEVER
        self.looked_at = NEVER
        self.tick = 0

    def expire(self) -> None:
        """Called by the sweep, in the hub."""
        _throw(self.watcher, DeadlineExceeded())


def _throw(watcher: Any, error: Exception) -> None:
    """Make the wait on ``watcher``, if there is one now, raise ``error``. Only to be called in the hub."""
    if watcher.active and watcher.callback is not None:
        watcher.callback.__self__.throw(error)


class Stream:
    """One connection. At most one greenlet may read and one may write at a time.

    ``received`` and ``sent`` count bytes; how much of that some metric has taken account of is noted beside them.
    Failures of the connection are raised as ``OSError``.
    """

    __slots__ = (
        "_deadlines",
        "_hub",
        "_look",
        "_reader",
        "_recv",
        "_room",
        "_send",
        "_turns",
        "closed",
        "cutoff",
        "deadline",
        "fault",
        "idle_since",
        "looked_at",
        "received",
        "received_counted",
        "sent",
        "sent_counted",
        "sock",
        "tick",
    )

    splices: ClassVar[bool] = True
    """Whether what is read and written is what the socket carries."""

    def __init__(self, sock: RawSocket) -> None:
        self._hub = get_hub()
        self._deadlines = deadlines()
        self.sock = sock
        self._recv = sock.recv
        self._send = sock.send
        # gevent's stubs do not know what a watcher offers.
        self._reader: Any = self._hub.loop.io(sock.fileno(), _READ)
        self._room: _Room | None = None
        self._look: Any = None
        self._turns = 0
        self.received = 0
        self.sent = 0
        self.received_counted = 0
        self.sent_counted = 0
        self.closed = False
        self.cutoff = NEVER
        self.deadline = NEVER
        self.looked_at = NEVER
        self.tick = 0
        self.idle_since = 0.0
        self.fault: Exception | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self.sock.fileno()}"
        return f"<{type(self).__name__} {state} received={self.received} sent={self.sent}>"

    # -- reading ------------------------------------------------------------------------------------------------

    def read(self, patience: float, size: int = READ_SIZE) -> bytes:
        """What is there, at most ``size`` bytes, waiting if nothing is; ``b""`` at the end of the stream.

        Raises DeadlineExceeded, OSError, or the error given to :meth:`interrupt`.
        """
        while True:
            try:
                data = self._recv(size)
            except BlockingIOError:
                self._wait_to_read(patience)
                continue
            self.received += len(data)
            self._turns += 1
            if self._turns == TURNS:
                self.give_way()
            return data

    def give_way(self) -> None:
        """Let other connections have their turn: a peer that always has more to give would otherwise keep the loop."""
        self._turns = 0
        gevent.sleep(0)
        if self.fault is not None:
            raise self.fault  # it would go unnoticed for as long as there is never anything to wait for

    def read_later(self, patience: float, size: int = READ_SIZE) -> bytes:
        """As :meth:`read`, for when nothing can be there yet: waits first, which saves a system call."""
        # Written out, not called: it is run twice for every request.
        if self.fault is not None:
            raise self.fault
        deadline = monotonic() + patience
        if deadline > self.cutoff:
            deadline = self.cutoff
        self.deadline = deadline
        if deadline < self.looked_at:
            self._deadlines.schedule(self)
        self._turns = 0
        self._hub.wait(self._reader)
        try:
            data = self._recv(size)
        except BlockingIOError:
            return self.read(patience, size)
        self.received += len(data)
        return data

    def read_ready(self, patience: float) -> None:
        """Wait until a read would not (used by splice, which reads by itself)."""
        self._wait_to_read(patience)

    def quiet(self) -> bool:
        """Whether the peer has sent nothing and not closed: the state of a connection that may be reused."""
        look = self._look
        if look is None:
            look = self._look = _poll()
            look.register(self.sock.fileno(), select.POLLIN)
        return not look.poll(0)

    def peer(self) -> Peer:
        """Whether the peer has closed its side, with nothing left to read, or reset the connection. Reads nothing."""
        try:
            return Peer.OPEN if self._recv(1, _PEEK) else Peer.ENDED
        except BlockingIOError:
            return Peer.OPEN
        except OSError:
            return Peer.RESET

    def reset_by_peer(self) -> bool:
        """Whether the peer has reset the connection, even with bytes left to read. Takes nothing."""
        look = _poll()
        look.register(self.sock.fileno(), 0)
        return any(happened & select.POLLERR for _, happened in look.poll(0))

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview | bytearray, patience: float) -> None:
        """Send all of ``data``; each wait for room lasts at most ``patience`` seconds.

        Raises DeadlineExceeded or OSError.
        """
        length = len(data)
        try:
            done = self._send(data)
        except BlockingIOError:
            done = 0
        self.sent += done
        if done < length:
            self._write_rest(memoryview(data)[done:], patience)

    def _write_rest(self, rest: memoryview, patience: float) -> None:
        while rest:
            self.write_ready(patience)
            try:
                done = self._send(rest)
            except BlockingIOError:
                continue
            self.sent += done
            rest = rest[done:]

    def write_ready(self, patience: float) -> None:
        """Wait until there is room to write."""
        room = self._room
        if room is None:
            room = self._room = _Room(self._hub.loop.io(self.sock.fileno(), _WRITE))
        if self.fault is not None:
            raise self.fault
        room.deadline = min(monotonic() + patience, self.cutoff)
        if room.deadline < room.looked_at:
            self._deadlines.schedule(room)
        self._hub.wait(room.watcher)

    def write_stalls(self) -> bool:
        """Whether a write is waiting for room at this moment."""
        room = self._room
        return room is not None and bool(room.watcher.active)

    def finish_writing(self, patience: float) -> None:
        """Tell the peer that nothing more will be sent (half-close).

        Where that takes a message, and there is no room for it, each wait lasts at most ``patience`` seconds.
        """
        try:
            self.sock.shutdown(std.SHUT_WR)
        except OSError as error:
            if error.errno != ENOTCONN:  # the peer has reset: there is nobody left to tell
                raise

    # -- waiting ------------------------------------------------------------------------------------------------

    def _wait_to_read(self, patience: float) -> None:
        if self.fault is not None:
            raise self.fault
        self._arm(patience)
        self._turns = 0
        self._hub.wait(self._reader)

    def _arm(self, patience: float) -> None:
        deadline = monotonic() + patience
        if deadline > self.cutoff:
            deadline = self.cutoff
        self.deadline = deadline
        if deadline < self.looked_at:
            self._deadlines.schedule(self)

    def rearm(self, patience: float) -> None:
        """Give the read that another greenlet is waiting in a new patience, from now."""
        if self._reader.active:
            self._arm(patience)

    def expire(self) -> None:
        """Called by the sweep, in the hub, when the wait to read has lasted too long."""
        _throw(self._reader, DeadlineExceeded())

    def interrupt(self, error: Exception) -> None:
        """Make the wait on this stream raise ``error``, now or when it next begins."""
        if self.fault is None:
            self.fault = error
            self._hub.loop.run_callback(self.throw, error)

    def throw(self, error: Exception) -> None:
        """Make the waits that are going on, if any, raise ``error``. Only to be called in the hub."""
        _throw(self._reader, error)
        if self._room is not None:
            _throw(self._room.watcher, error)

    # -- closing ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection. No greenlet may be waiting on it. Safe to repeat."""
        if self.closed:
            return
        self.closed = True
        if self.fault is not None:
            self.fault.__traceback__ = None  # the frames that it went through hold this stream
        if self.looked_at != NEVER:
            self._deadlines.forget(self)
        self._reader.stop()
        self._reader.close()
        room = self._room
        if room is not None:
            if room.looked_at != NEVER:
                self._deadlines.forget(room)
            room.watcher.stop()
            room.watcher.close()
        self.sock.close()

    def reset(self) -> None:
        """Close so that the peer sees an error, not an end: for messages that must not look complete."""
        if not self.closed:
            try:
                self.sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass  # already reset by the peer, which is what was wanted
            self.close()
