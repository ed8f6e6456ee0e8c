"""Connected sockets for tests: our end as a Stream, the other as a cooperative socket of gevent's own."""

from __future__ import annotations

import socket as std
import struct
from _socket import socket as RawSocket
from collections.abc import Callable

import gevent
from gevent import socket

from charon.net.stream import Stream
from charon.net.tls_stream import TlsStream

LOOPBACK = ("127.0.0.1", 0)


class Wires:
    """Makes connections and closes whatever is left of them."""

    def __init__(self) -> None:
        self._streams: list[Stream] = []
        self._peers: list[socket.socket] = []

    def tcp(self, *, buffers: int | None = None) -> tuple[Stream, socket.socket]:
        """A TCP connection over loopback; ``buffers`` bounds what the kernel holds on its way, in bytes."""
        raw, peer = self._connected(buffers)
        return self.stream(raw), self.peer(peer)

    def tls(self, *, buffers: int | None = None) -> tuple[TlsStream, TlsStream]:
        """The two ends of a TCP connection, neither of which has begun to speak TLS."""
        raw, peer = self._connected(buffers)
        other = RawSocket(peer.family, peer.type, peer.proto, peer.detach())
        other.setblocking(False)
        ends = TlsStream(raw), TlsStream(other)
        self._streams += ends
        return ends

    @staticmethod
    def _connected(buffers: int | None) -> tuple[RawSocket, socket.socket]:
        listener = socket.socket()
        listener.bind(LOOPBACK)
        listener.listen()
        if buffers:
            listener.setsockopt(std.SOL_SOCKET, std.SO_RCVBUF, buffers)
        raw = RawSocket(std.AF_INET, std.SOCK_STREAM)
        if buffers:
            raw.setsockopt(std.SOL_SOCKET, std.SO_SNDBUF, buffers)
        raw.connect(listener.getsockname())  # the queue of the listener answers
        raw.setblocking(False)
        peer, _ = listener.accept()
        listener.close()
        return raw, peer

    def unix(self) -> tuple[Stream, socket.socket]:
        """A pair of Unix sockets."""
        ours, theirs = socket.socketpair()
        raw = RawSocket(std.AF_UNIX, std.SOCK_STREAM, 0, ours.detach())
        raw.setblocking(False)
        return self.stream(raw), self.peer(theirs)

    def stream(self, raw: RawSocket) -> Stream:
        self._streams.append(Stream(raw))
        return self._streams[-1]

    def peer(self, sock: socket.socket) -> socket.socket:
        self._peers.append(sock)
        return sock

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        for peer in self._peers:
            peer.close()


def reset(sock: socket.socket) -> None:
    """Close with an RST."""
    sock.setsockopt(std.SOL_SOCKET, std.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    return b"".join(iter(lambda: sock.recv(1 << 20), b""))


def until(condition: Callable[[], object]) -> None:
    """Let everything else run until ``condition`` holds; the test's own time limit bounds it."""
    while not condition():
        gevent.sleep(0.001)
