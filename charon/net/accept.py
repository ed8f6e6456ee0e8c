"""Accepting connections: what Charon changes in gevent's stream servers.

Connections come out as raw non-blocking sockets (a :class:`~charon.net.stream.Stream` does the waiting), and no failure
of accept can spin or end a listener: before descriptors run out, accepting pauses and the queue waits in the kernel.
"""

from __future__ import annotations

import errno
import os
import socket as std
from _socket import socket as RawSocket
from collections.abc import Callable
from typing import Any

from gevent import Greenlet
from gevent import socket as gsocket
from gevent.pool import Pool
from gevent.server import StreamServer

from charon.net.capacity import Capacity

PAUSE = 0.05
"""Seconds for which accepting pauses after a failure that trying again at once would repeat."""

# The connection is gone or damaged, the listener is fine (accept(2)).
_CONNECTION_LOST = frozenset(
    {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH,
     errno.EHOSTDOWN, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ETIMEDOUT, errno.EPERM}
)  # fmt: skip


class ConnectionPool(Pool):
    """The greenlets of a listener's connections. Unlike gevent's own limit, this one may change at any time; and
    ``capacity``, which the listeners of a process share, has to have room as well."""

    def __init__(self, limit: int, on_room: Callable[[], None], capacity: Capacity) -> None:
        super().__init__()
        self.limit = limit
        self._on_room = on_room
        self._capacity = capacity
        self._held_up = False
        base: Any = self
        self._none_left = base._empty_event  # which gevent's own code waits for

    def full(self) -> bool:
        """Asked before each accept. After a True, ``on_room`` is called once there is room."""
        self._held_up = len(self.greenlets) >= self.limit
        return self._held_up or self._capacity.full(self._on_room)

    # These two do what gevent's do, but for its own limit, in one piece: they are run for every connection.

    def add(self, greenlet: Any, blocking: bool = True, timeout: float | None = None) -> None:
        greenlet.rawlink(self._discard)
        self.greenlets.add(greenlet)
        self._none_left.clear()
        self._capacity.entered()

    def _discard(self, greenlet: Any) -> None:
        self.greenlets.discard(greenlet)
        self.dying.discard(greenlet)
        if not self.greenlets:
            self._none_left.set()
        self._capacity.left()
        self._look_for_room()

    def set_limit(self, limit: int) -> None:
        """Allow so many from now on; what is open stays."""
        self.limit = limit
        self._look_for_room()

    def _look_for_room(self) -> None:
        if self._held_up and len(self.greenlets) < self.limit:
            self._held_up = False
            self._on_room()


class Acceptor(StreamServer):
    """A listener of one worker: at most ``max_connections`` at a time, the rest wait in the kernel's queue."""

    on_accept_error: Callable[[OSError], None]

    def __init__(
        self,
        fd: int,
        max_connections: int,
        on_accept_error: Callable[[OSError], None],
        capacity: Capacity,
        **options: Any,
    ) -> None:
        self.on_accept_error = on_accept_error
        self.capacity = capacity
        self.pool_of_connections = ConnectionPool(max_connections, self._resume, capacity)
        super().__init__(gsocket.socket(fileno=fd), spawn=self.pool_of_connections, **options)
        self.max_accept = min(self.max_accept, capacity.batch)
        if self.family != std.AF_UNIX:  # what is accepted has it from there (Linux)
            self.socket.setsockopt(std.IPPROTO_TCP, std.TCP_NODELAY, 1)

    def do_read(self) -> tuple[RawSocket, Any] | None:  # type: ignore[override] # gevent: its own socket class
        """Accept one connection; None when there is none, or accepting has to pause."""
        listener: Any = self.socket
        try:
            fd, address = listener._accept()
        except BlockingIOError:
            return None
        except OSError as error:
            self.on_accept_error(error)
            if error.errno not in _CONNECTION_LOST:
                self._pause()
            return None
        self.capacity.accepted(fd)
        sock = RawSocket(listener.family, listener.type, listener.proto, fd)
        sock.setblocking(False)
        return sock, address

    def do_handle(self, *args: Any) -> None:
        """Serve an accepted connection in a greenlet of its own, which closes it."""
        handle: Any = self.handle
        greenlet: Greenlet[..., None] = Greenlet(handle, *args)
        self.pool_of_connections.add(greenlet)
        greenlet.start()

    def _pause(self) -> None:
        self.stop_accepting()
        timer: Any = self.loop.timer(PAUSE)
        self._timer = timer  # gevent stops it together with accepting
        timer.start(self._resume)

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()

    def stop_listening(self) -> None:
        """Accept what the kernel has queued for this worker, then close its copy of the listening socket."""
        if self.closed:
            return
        for _ in range(65_536):
            if self.full():
                break
            args = self.do_read()
            if args is None:
                break
            self.do_handle(*args)
        self.close()


def peer_ip(address: Any) -> str:
    """The peer's address for logs and forwarding: an IP literal, or ``unix`` for a Unix socket."""
    if not isinstance(address, tuple):
        return "unix"
    host: str = address[0]
    if host.startswith("::ffff:") and "." in host:
        return host[7:]  # IPv4 through a socket that speaks both
    return host


def peer_port(address: Any) -> int:
    """The peer's port; 0 for a Unix socket."""
    port: int = address[1] if isinstance(address, tuple) else 0
    return port


def why(error: OSError) -> str:
    """An OSError in words."""
    return os.strerror(error.errno) if error.errno else str(error)
