"""The channel between the supervisor and one worker: a socket pair with framed messages, descriptors among them.

Upwards travel plain JSON values only: a worker touches peers' bytes and is not trusted with more. Downwards also
travel snapshots, pickled: the supervisor is trusted by its workers, which it has started from the same files.
"""

from __future__ import annotations

import pickle
import socket as std
import struct
from typing import Any

import orjson
from gevent import socket as gsocket
from gevent.lock import Semaphore

from charon.config.service_table import SnapshotUpdate
from charon.config.snapshot import Snapshot

_HEADER = struct.Struct("!cI")
_JSON, _SNAPSHOT = b"J", b"S"
_COUNT = "descriptors"
MAX_MESSAGE = 1 << 30
MAX_DESCRIPTORS = 250
"""Descriptors that one message may carry (SCM_MAX_FD is 253)."""

Message = dict[str, Any] | Snapshot | SnapshotUpdate


class ChannelClosed(Exception):
    """The other process is gone."""


class Channel:
    """One end. ``send`` may be called by any greenlet, ``receive`` by one."""

    def __init__(self, sock: Any, *, trusting: bool) -> None:
        """``trusting``: accept snapshots from the other end, which is the supervisor."""
        self._sock = sock
        self._trusting = trusting
        self._sending = Semaphore()
        self._buffer = b""
        self._descriptors: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Any]:
        """The supervisor's end, and the socket that a worker inherits."""
        ours, theirs = gsocket.socketpair(std.AF_UNIX, std.SOCK_STREAM)
        return cls(ours, trusting=False), theirs

    @classmethod
    def inherited(cls, fd: int, *, trusting: bool) -> Channel:
        """The end of a process that was started with ``fd``."""
        return cls(gsocket.fromfd(fd, std.AF_UNIX, std.SOCK_STREAM), trusting=trusting)

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send one message, waiting as long as the other end takes to read it. Raises ChannelClosed."""
        if isinstance(message, Snapshot | SnapshotUpdate):
            kind, payload = _SNAPSHOT, pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        else:
            kind, payload = _JSON, orjson.dumps({**message, _COUNT: len(descriptors)})
        data = _HEADER.pack(kind, len(payload)) + payload
        try:
            with self._sending:
                if descriptors:
                    sent = std.send_fds(self._sock, [data], list(descriptors))
                    data = data[sent:]
                self._sock.sendall(data)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self) -> tuple[Message, list[int]]:
        """The next message, and the descriptors that belong to it. Raises ChannelClosed."""
        kind, length = _HEADER.unpack(self._exactly(_HEADER.size))
        if length > MAX_MESSAGE:
            raise ChannelClosed
        payload = self._exactly(length)
        if kind == _SNAPSHOT and self._trusting:
            snapshot: Snapshot | SnapshotUpdate = pickle.loads(payload)  # noqa: S301 - from our own supervisor, see above
            return snapshot, []
        if kind != _JSON:
            raise ChannelClosed
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise ChannelClosed from error
        if not isinstance(message, dict):
            raise ChannelClosed
        count = message.pop(_COUNT, 0)
        descriptors, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return message, descriptors

    def close(self) -> None:
        self._sock.close()

    def _exactly(self, size: int) -> bytes:
        chunks = [self._buffer]
        have = len(self._buffer)
        while have < size:
            try:
                # A read may bring the end of one message along with the descriptors of the next: each takes its count.
                data, descriptors, _, _ = std.recv_fds(self._sock, 1 << 18, MAX_DESCRIPTORS)
            except OSError as error:
                raise ChannelClosed from error
            if not data:
                raise ChannelClosed
            self._descriptors.extend(descriptors)
            chunks.append(data)
            have += len(data)
        whole = b"".join(chunks)
        self._buffer = whole[size:]
        return whole[:size]
