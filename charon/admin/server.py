"""Where the admin application is served: pywsgi on the Unix socket, and on a TCP address when one is configured.

Stock pywsgi sets no deadline for a request, and reads whatever body was announced. Everybody may connect over TCP, so
both are bounded here, as is the number of connections; the Unix socket is served apart, whatever goes on there.
"""

from __future__ import annotations

import os
import socket as std
import struct
from _socket import socket as RawSocket
from collections.abc import Iterable
from io import BytesIO
from typing import Any, Final

import gevent
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.socket import socket as GeventSocket  # noqa: TID251 - what pywsgi takes; charon.net.listen makes it

from charon.admin.app import AdminApp
from charon.admin.permission import PEER, Peer, Permissions, TokenProblem
from charon.base.errors import StartError
from charon.base.names import Event
from charon.net.listen import bound_address, listen
from charon.telemetry.events import EventLog

REQUEST_SECONDS: Final = 10.0
"""How long a request may take to arrive over TCP, its body included."""

IDLE_SECONDS: Final = 60.0
"""How long a connection over TCP waits for another request, or for its client to take some of an answer."""

MAX_CONNECTIONS: Final = 64
"""Over TCP, at the same time; others wait in the kernel's queue."""

_MAX_BODY: Final = 1 << 20
_CREDENTIALS: Final = struct.Struct("3i")


class _Handler(WSGIHandler):
    """One connection. The environ says who is at its other end."""

    server: _Server
    _clock: gevent.Timeout | None = None

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ[PEER] = self.server.peer(self.socket)
        return environ

    def read_request(self, raw_requestline: str) -> Any:
        found = super().read_request(raw_requestline)
        length = self.content_length
        if length is not None and length > _MAX_BODY:
            raise ValueError("the body is far too long")  # pywsgi would read all of it, only to throw it away
        return found


class _TcpHandler(_Handler):
    def handle(self) -> None:
        self.socket.settimeout(IDLE_SECONDS)
        super().handle()

    def read_requestline(self) -> str:
        """The wait for the first byte is idleness; from then on the request has its time."""
        if not self.rfile.peek(1):
            return ""
        self._clock = gevent.Timeout.start_new(REQUEST_SECONDS, OSError("the request was not complete in time"))
        return str(super().read_requestline())

    def handle_one_response(self) -> None:
        """The body is part of what has to arrive in time; how long the answer takes is up to us."""
        environ = self.environ
        assert environ is not None
        body = environ["wsgi.input"].read(_MAX_BODY + 1)
        if len(body) > _MAX_BODY:
            raise OSError("the body is far too long")
        self._end_clock()
        environ["wsgi.input"] = BytesIO(body)
        super().handle_one_response()

    def _end_clock(self) -> None:
        if self._clock is not None:
            self._clock.close()
            self._clock = None

    def handle_one_request(self) -> Any:
        try:
            return super().handle_one_request()
        except OSError:
            return None  # out of time, or gone: closing is all that is left
        finally:
            self._end_clock()

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        if isinstance(ex, OSError):
            raise ex  # not what the client sent is wrong, but how long it took
        answer: tuple[str, bytes] = super()._handle_client_error(ex)  # type: ignore[misc] # the stubs leave it out
        return answer


class _Server(WSGIServer):
    def peer(self, sock: Any) -> Peer:
        """Who is at the other end of a connection."""
        raise NotImplementedError


class UnixServer(_Server):
    """On the admin socket; ``stop`` also removes the socket from the file system, if it is still this one."""

    handler_class = _Handler

    def __init__(self, path: str, listener: GeventSocket, app: AdminApp, events: EventLog) -> None:
        super().__init__(listener, app, log=None, error_log=_ErrorLog(events))
        self.path = path
        status = os.stat(path)
        self._identity = (status.st_dev, status.st_ino)

    def peer(self, sock: Any) -> Peer:
        """The user of the process that opened the connection (unix(7), SO_PEERCRED)."""
        found = sock.getsockopt(std.SOL_SOCKET, std.SO_PEERCRED, _CREDENTIALS.size)
        return Peer(uid=_CREDENTIALS.unpack(found)[1])

    def stop(self, timeout: float | None = None) -> None:
        """Take no more connections, give open ones ``timeout`` seconds to end, remove the socket."""
        self.unlink()
        super().stop(timeout)

    def hand_over(self) -> None:
        """Stop, and leave the socket to another process, which has it too. What is under way has a second."""
        super().stop(1.0)

    def unlink(self) -> None:
        """Remove the socket file. One that another process has put in its place is left alone."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return
        if (status.st_dev, status.st_ino) == self._identity:
            os.unlink(self.path)


class TcpServer(_Server):
    """On a TCP address, where nobody is known but by a token."""

    handler_class = _TcpHandler

    def __init__(self, listener: GeventSocket, app: AdminApp, events: EventLog) -> None:
        super().__init__(listener, app, log=None, error_log=_ErrorLog(events), spawn=MAX_CONNECTIONS)

    def peer(self, sock: Any) -> Peer:
        return Peer()

    def update_environ(self) -> None:
        """pywsgi would look up the host's name here, for WSGI's environ; the address does."""
        host, port = self.socket.getsockname()[:2]
        self.environ.update(SERVER_NAME=host, SERVER_PORT=str(port))


class AdminServer:
    """The admin application, being served on its socket and, maybe, its address."""

    def __init__(self, unix: UnixServer, tcp: TcpServer | None) -> None:
        self._unix = unix
        self.tcp = tcp
        self.path = unix.path

    def fileno(self) -> int:
        """The descriptor of the listening Unix socket."""
        return int(self._unix.socket.fileno())

    def hand_over(self) -> None:
        """Stop, and leave the Unix socket to another process, which has it too. The TCP address is free then."""
        if self.tcp is not None:
            self.tcp.stop(1.0)
        self._unix.hand_over()

    def stop(self, timeout: float | None = None) -> None:
        """Take no more connections, give open ones ``timeout`` seconds to end, remove the socket."""
        if self.tcp is not None:
            self.tcp.stop(timeout)
        self._unix.stop(timeout)


class _ErrorLog:
    """What pywsgi writes about malformed requests and its own failures, as events."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def write(self, text: str) -> None:
        if text.strip():
            self._events.warning(Event.ADMIN_FAILED, text=text.strip())

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing is held back here."""


def bind(path: str, mode: int = 0o660) -> GeventSocket:
    """A listening Unix socket at ``path``; folders that are missing are made, for the owner and its group.

    A socket file that nobody listens on any more is replaced. StartError when another process listens there, when
    something that is no socket stands there, when the path cannot be used, or when its folder belongs to somebody
    other than root and the present user, who could put a socket of their own in its place.
    """
    folder = os.path.dirname(path) or "."
    try:
        _make_folders(folder)
        owners = {os.lstat(folder).st_uid, os.stat(folder).st_uid}  # a link's owner can point it elsewhere
    except OSError as error:
        raise StartError(f"cannot make the folder of the admin socket {path}: {error.strerror or error}") from error
    for owner in owners - {0, os.geteuid()}:
        raise StartError(
            f"the folder of the admin socket {path} belongs to user {owner}, who could put another socket there; "
            "give admin.socket a path in a folder of your own"
        )
    # At no time is the socket open to more than ``mode`` allows; nothing else can run before the mask is back.
    umask = os.umask(0o777 & ~mode)
    try:
        (listener,) = listen(f"unix:{path}", 1)
    finally:
        os.umask(umask)
    return GeventSocket(fileno=listener.detach())


def _make_folders(folder: str) -> None:
    """``folder`` and what is missing above it, each 0750 (makedirs would give the mode to the last one only)."""
    if os.path.isdir(folder):
        return
    _make_folders(os.path.dirname(folder) or ".")
    try:
        os.mkdir(folder, mode=0o750)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise


def serve(
    path: str,
    app: AdminApp,
    events: EventLog,
    *,
    mode: int = 0o660,
    inherited: RawSocket | None = None,
    address: str | None = None,
    permissions: Permissions | None = None,
) -> AdminServer:
    """Serve ``app`` at ``path``, and at the TCP ``address``, in greenlets, from now until ``stop()``.

    StartError as for :func:`bind`, when the address cannot be used, and when a token of ``permissions`` cannot.
    ``inherited`` is a socket that listens at ``path`` already: another program served before. Its address may not be
    free yet, or be gone to somebody else; this program then goes on without it, and says so.
    """
    try:
        (permissions or Permissions()).check()
    except TokenProblem as problem:
        raise StartError(str(problem)) from None
    taken_over = inherited is not None
    if inherited is not None and inherited.getsockname() == path:
        listener = GeventSocket(fileno=inherited.detach())
    else:
        if inherited is not None:
            inherited.close()
        listener = bind(path, mode)
    tcp: TcpServer | None = None
    try:
        if address is not None:
            tcp = TcpServer(GeventSocket(fileno=listen(address, 1)[0].detach()), app, events)
    except StartError as error:
        if not taken_over:
            listener.close()
            os.unlink(path)
            raise
        events.error(Event.ADMIN_FAILED, address=address, text=str(error))
    unix = UnixServer(path, listener, app, events)
    unix.start()
    if tcp is None:
        events.info(Event.ADMIN_STARTED, socket=path)
    else:
        tcp.start()
        events.info(Event.ADMIN_STARTED, socket=path, address=bound_address(tcp.socket))
    return AdminServer(unix, tcp)
