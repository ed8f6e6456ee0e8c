"""Listening sockets that were open before this program began: from an earlier Charon or the service manager.

An earlier program that is being replaced (an upgrade in place) hands its sockets over a channel and drains once this
one serves. systemd hands on what a ``.socket`` unit holds, and what an earlier start has left in its file descriptor
store (sd_listen_fds(3), "File Descriptor Store"). Either way what is queued on them is not lost.
"""

from __future__ import annotations

import os
from _socket import socket as RawSocket
from collections.abc import MutableMapping
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

import gevent

from charon.base.errors import StartError
from charon.daemon.channel import Channel, ChannelClosed
from charon.net.listen import adopt, bound_address, listens_on
from charon.net.tasks import spawn

HANDOVER: Final = "CHARON_HANDOVER"
"""Names the descriptor of the channel to the program that is to be replaced."""

_FIRST_DESCRIPTOR: Final = 3
_PATIENCE: Final = 10.0
_LONGEST_NAME: Final = 200


def stored_name(key: str) -> str:
    """The name for what is open as ``key`` while nobody has it: no colon, not long (sd_pid_notify_with_fds(3))."""
    name = quote(key, safe="/[] ")
    return name if len(name) <= _LONGEST_NAME else sha256(key.encode()).hexdigest()


class Predecessor:
    """The program that this one replaces. ``connections`` is what it has to finish; ``gone``: it has ended."""

    def __init__(self, channel: Channel, pid: int) -> None:
        self.pid = pid
        self.connections = 0
        self.gone = False
        self._channel = channel

    def take_over(self) -> None:
        """Say that this program serves, and wait until the other one has let go of the admin socket."""
        try:
            self._channel.send({"type": "ready"})
            with gevent.Timeout(_PATIENCE, False):  # type: ignore[arg-type] # gevent: it then ends in silence
                self._channel.receive()
        except ChannelClosed:
            self.gone = True  # it was killed meanwhile: everything is ours anyhow
            return
        spawn("predecessor", self._listen)

    def status(self) -> dict[str, int] | None:
        """What is left of it, as plain values."""
        return None if self.gone else {"pid": self.pid, "connections": self.connections}

    def _listen(self) -> None:
        try:
            while True:
                message, _ = self._channel.receive()
                if isinstance(message, dict):
                    self.connections = int(message.get("connections", 0))
        except ChannelClosed:
            self.gone = True
            self._channel.close()


class Inheritance:
    """Sockets that wait for their listener. ``stored`` says that the service manager holds copies of them."""

    def __init__(
        self,
        sockets: list[tuple[str, RawSocket]] | None = None,
        *,
        admin: RawSocket | None = None,
        predecessor: Predecessor | None = None,
    ) -> None:
        """``sockets`` come with the names that they were handed on under."""
        self._sockets = sockets or []
        self.admin = admin
        self.predecessor = predecessor

    @classmethod
    def of_this_process(cls, environ: MutableMapping[str, str]) -> Inheritance:
        """What the environment tells of, which is then taken out of it. Raises StartError when it is not as told."""
        fd = environ.pop(HANDOVER, None)
        pid, count = environ.pop("LISTEN_PID", None), environ.pop("LISTEN_FDS", "0")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        if fd is not None:
            return _from_predecessor(int(fd))
        if pid != str(os.getpid()):
            return cls()  # meant for another process
        descriptors = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
        names += [""] * (len(descriptors) - len(names))
        return cls([(name, adopt(fd)) for name, fd in zip(names, descriptors, strict=False)])

    def take(self, key: str, address: str) -> list[RawSocket]:
        """The sockets that are known as ``key``, or are bound to ``address``; none when there are none."""
        name = stored_name(key)
        mine = [(named, sock) for named, sock in self._sockets if named == name or listens_on(sock, address)]
        self._sockets = [pair for pair in self._sockets if pair not in mine]
        return [sock for _, sock in mine]

    def close_rest(self) -> list[str]:
        """Close what no listener wants. Returns the addresses."""
        rest, self._sockets = self._sockets, []
        addresses = [bound_address(sock) for _, sock in rest]
        for _, sock in rest:
            sock.close()
        return addresses


def _from_predecessor(fd: int) -> Inheritance:
    channel = Channel.inherited(fd, trusting=False)
    os.close(fd)  # the channel has a copy
    sockets: list[tuple[str, RawSocket]] = []
    try:
        with gevent.Timeout(_PATIENCE, StartError("the program to be replaced hands nothing on")):
            message = _next(channel)
            while message["type"] == "sockets":
                sockets += [(name, adopt(fd)) for name, fd in zip(message["names"], message["fds"], strict=True)]
                message = _next(channel)
    except ChannelClosed as error:
        raise StartError("the program to be replaced has ended before it handed its sockets on") from error
    admin = adopt(message["fds"][0]) if message["fds"] else None
    return Inheritance(sockets, admin=admin, predecessor=Predecessor(channel, message["pid"]))


def _next(channel: Channel) -> dict[str, Any]:
    message, descriptors = channel.receive()
    assert isinstance(message, dict)
    return message | {"fds": descriptors}
