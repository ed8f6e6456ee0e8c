"""Telling the service manager how things stand: sd_notify(3), over a datagram socket. Without one, nothing is told."""

from __future__ import annotations

import os
import socket as std
from collections.abc import Iterable, MutableMapping
from time import CLOCK_MONOTONIC, clock_gettime_ns

from gevent import socket as gsocket

_MAX_STORED_AT_ONCE = 200


class Notifier:
    """The way to the service manager, if there is one.

    ``watchdog_seconds`` is how often it wants to hear from us, None when it does not.
    """

    def __init__(self, path: str | None = None, watchdog_seconds: float | None = None) -> None:
        self._path = path
        self.watchdog_seconds = watchdog_seconds
        self._status = ""

    @property
    def present(self) -> bool:
        """Whether there is a service manager. It may then keep descriptors that it is given over a restart."""
        return self._path is not None

    @classmethod
    def of_this_process(cls, environ: MutableMapping[str, str]) -> Notifier:
        """As the environment says; what it says is taken out of it, as it is not meant for the processes we start."""
        path = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", None)
        pid = environ.pop("WATCHDOG_PID", None)
        watched = microseconds is not None and pid in (None, str(os.getpid()))
        seconds = int(microseconds) / 1e6 if watched and microseconds is not None else None
        return cls(path, seconds)

    def environment(self) -> dict[str, str]:
        """What a program that takes our place is to find in its environment."""
        found: dict[str, str] = {}
        if self._path is not None:
            found["NOTIFY_SOCKET"] = self._path
        if self.watchdog_seconds is not None:
            found["WATCHDOG_USEC"] = str(round(self.watchdog_seconds * 1e6))
        return found

    def ready(self, status: str) -> None:
        """It serves, for the first time or after :meth:`reloading`."""
        self._status = status
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, seconds: float) -> None:
        """It is ending, which may take ``seconds``."""
        self._status = status
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(seconds * 1e6)}\nSTATUS={status}")

    def status(self, text: str) -> None:
        """A line for people, sent when it has changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def main_process(self, pid: int) -> None:
        """Another process is the service from now on."""
        self._send(f"MAINPID={pid}")

    def watchdog(self) -> None:
        """We are alive."""
        self._send("WATCHDOG=1")

    def store(self, name: str, descriptors: Iterable[int]) -> None:
        """Have ``descriptors`` kept for the next start, if the unit says so. ``name`` may hold no colon."""
        fds = list(descriptors)
        for start in range(0, len(fds), _MAX_STORED_AT_ONCE):
            self._send(f"FDSTORE=1\nFDNAME={name}", fds[start : start + _MAX_STORED_AT_ONCE])

    def forget(self, name: str) -> None:
        """Have what was stored under ``name`` given up."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, text: str, descriptors: list[int] | None = None) -> None:
        if self._path is None:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with gsocket.socket(std.AF_UNIX, std.SOCK_DGRAM) as sock:  # noqa: TID251 - a datagram, which no Stream sends
            sock.connect(address)
            if descriptors:
                std.send_fds(sock, [text.encode()], descriptors)
            else:
                sock.sendall(text.encode())
