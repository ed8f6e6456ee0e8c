"""The kinds of descriptor a log can go to, and how each takes bytes without tearing lines or stopping the loop.

Every target owns its descriptor, which is never 0, 1 or 2 and is closed by :meth:`Target.close`. Flags of a
descriptor that other processes share are left alone: ``O_NONBLOCK`` belongs to the open file description, and setting
it on an inherited standard output would change it for everyone who holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any, Final

from gevent.monkey import get_original

PIPE_BUF: Final = 4096
"""Bytes that a pipe takes whole or not at all, on Linux; no log line is longer than this."""

_LOCK_PATIENCE: Final = 6
"""Tries for a file's lock before it is written without (a holder that is stopped must not silence all others)."""

_poll: Callable[[], Any] = get_original("select", "poll")
_socket: Callable[..., Any] = get_original("socket", "socket")
_POLLOUT: Final = 4
_POLLERR: Final = 8
_MSG_DONTWAIT: Final = 0x40


def writable(fd: int) -> bool:
    """Whether one write of at most ``PIPE_BUF`` bytes to ``fd`` would not wait now. An error counts as writable."""
    poll = _poll()
    poll.register(fd, _POLLOUT)
    return any(events & (_POLLOUT | _POLLERR) for _, events in poll.poll(0))


def line_end(data: bytes, start: int, size: int) -> int:
    """Where a piece of at most ``size`` bytes that ends with a line ends; a longer line is a piece by itself."""
    if len(data) - start <= size:
        return len(data)
    end = data.rfind(b"\n", start, start + size) + 1
    if end > start:
        return end
    return data.find(b"\n", start) + 1 or len(data)


class Target:
    """Where bytes go. ``fd`` is owned."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)

    def put(self, data: bytes, start: int) -> int:
        """Hand on some of ``data`` from ``start``: how many bytes were taken, 0 when it would have to wait.

        ``data`` is whole lines. Raises OSError when the target cannot take anything.
        """
        raise NotImplementedError

    def close(self) -> None:
        os.close(self.fd)


class FileTarget(Target):
    """A regular file. One append a call, so lines of several processes stand one after another.

    Only a disk that fills up can cut a write short. The lock lets the one to whom that happens take the begun line
    back before another appends to it. It guards nothing else, so that where it cannot be had for long (a stopped
    holder, a file system without locks, a description shared with others) lines are appended without it.
    """

    def __init__(self, fd: int, *, own_description: bool) -> None:
        super().__init__(fd)
        self._lockable = own_description
        self._refusals = 0

    def put(self, data: bytes, start: int) -> int:
        if not self._lockable:
            return os.write(self.fd, memoryview(data)[start:])
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refusals += 1
            if self._refusals < _LOCK_PATIENCE:
                return 0
            return os.write(self.fd, memoryview(data)[start:])
        except OSError:  # this file system has no locks
            self._lockable = False
            return self.put(data, start)
        self._refusals = 0
        try:
            return self._append(data, start)
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def _append(self, data: bytes, start: int) -> int:
        taken = os.write(self.fd, memoryview(data)[start:])
        if start + taken == len(data):
            return taken
        begun = start + taken - (data.rfind(b"\n", start, start + taken) + 1 or start)
        os.ftruncate(self.fd, os.fstat(self.fd).st_size - begun)
        if begun == taken:
            raise OSError(errno.ENOSPC, "no room for another line")
        return taken - begun


class StreamTarget(Target):
    """A pipe, a terminal or another character device: pieces that end with a line and that a pipe takes whole."""

    def __init__(self, fd: int, *, nonblocking: bool) -> None:
        super().__init__(fd)
        self._nonblocking = nonblocking

    def put(self, data: bytes, start: int) -> int:
        if not self._nonblocking and not writable(self.fd):
            return 0
        try:
            end = line_end(data, start, PIPE_BUF)
            return os.write(self.fd, data[start:end])
        except BlockingIOError:
            return 0


class SocketTarget(Target):
    """A socket, as systemd gives for standard output."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._socket = _socket(fileno=fd)

    def put(self, data: bytes, start: int) -> int:
        try:
            end = line_end(data, start, PIPE_BUF)
            taken: int = self._socket.send(data[start:end], _MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        return taken

    def close(self) -> None:
        self._socket.close()


def open_path(path: str) -> Target:
    """The file at ``path``, made with mode 0640 if there is none. OSError when it cannot be opened."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = _above_standard(os.open(path, flags, 0o640))
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return FileTarget(fd, own_description=True)
    return StreamTarget(fd, nonblocking=True)


def adopt(fd: int) -> Target:
    """A target on what the inherited descriptor ``fd`` stands for; ``fd`` itself stays as it is.

    A pipe or terminal is opened anew where that is permitted, which gives a description of our own that may be
    non-blocking: between a poll and a write another process could have filled the last room of a shared pipe.
    A regular file is not: what others write through the shared description must stay behind our lines.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return SocketTarget(_duplicate(fd))
    if stat.S_ISREG(mode):
        return FileTarget(_duplicate(fd), own_description=False)
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # not permitted after a change of user, no /proc, or a pipe without a reader
        return StreamTarget(_duplicate(fd), nonblocking=False)
    return StreamTarget(_above_standard(own), nonblocking=True)


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _above_standard(fd: int) -> int:
    """``fd``, moved where nobody mistakes it for a standard stream when those were closed."""
    if fd > 2:
        return fd
    moved = _duplicate(fd)
    os.close(fd)
    return moved
