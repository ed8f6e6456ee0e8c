"""What the supervisor answers on its admin socket: metrics, health of Charon itself, status.

An ordinary WSGI application on stock pywsgi. It is reached by local users who may open the Unix socket, and through
the metrics path of a proxy listener, whose request the proxy has parsed and writes anew; no peer's bytes come here
unparsed.
"""

from __future__ import annotations

import os
from _socket import socket as RawSocket
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson
from gevent.pywsgi import WSGIServer
from gevent.socket import socket as GeventSocket  # noqa: TID251 - what pywsgi takes; charon.net.listen makes it

from charon.base.errors import StartError
from charon.base.names import Event
from charon.net.listen import listen
from charon.telemetry.events import EventLog

Answer = tuple[str, str, bytes]
"""Status line, content type, body."""

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_METHODS: Final = ("GET", "HEAD")


class AdminApp:
    """The WSGI application.

    ``refresh`` brings the totals up to date before they are rendered; ``render`` takes an Accept field and gives
    content type and body (``Totals.render``). ``ready`` gives None when Charon is serving, else why it is not.
    ``status`` gives what JSON can carry, ``greenlets`` the names of all of each process. Whatever one of them raises
    becomes a 500 and an ``admin_failed`` event.
    """

    def __init__(
        self,
        *,
        refresh: Callable[[], None],
        render: Callable[[str], tuple[str, bytes]],
        ready: Callable[[], str | None],
        status: Callable[[], dict[str, Any]],
        greenlets: Callable[[], dict[str, list[str]]],
        events: EventLog,
    ) -> None:
        self._refresh = refresh
        self._render = render
        self._ready = ready
        self._status = status
        self._greenlets = greenlets
        self._events = events
        self._routes: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/api/status": self._api_status,
            "/api/greenlets": self._api_greenlets,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method: str = environ["REQUEST_METHOD"]
        more: list[tuple[str, str]] = []
        route = self._routes.get(environ["PATH_INFO"])
        if route is None:
            answer = _problem("404 Not Found", "there is nothing here")
        elif method not in _METHODS:
            answer = _problem("405 Method Not Allowed", "only GET and HEAD are answered here")
            more.append(("Allow", ", ".join(_METHODS)))
        else:
            answer = self._answer(route, environ)
        status, content_type, body = answer
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(status, headers + more)
        return [] if method == "HEAD" else [body]

    def _answer(self, route: Callable[[dict[str, Any]], Answer], environ: dict[str, Any]) -> Answer:
        try:
            return route(environ)
        except Exception as error:  # noqa: BLE001 - the boundary of the application: told, and answered
            self._events.error(Event.ADMIN_FAILED, exc=error, path=environ["PATH_INFO"])
            return _problem("500 Internal Server Error", "Charon failed; its log says how")

    def _metrics(self, environ: dict[str, Any]) -> Answer:
        self._refresh()
        content_type, body = self._render(environ.get("HTTP_ACCEPT", ""))
        return "200 OK", content_type, body

    def _livez(self, environ: dict[str, Any]) -> Answer:
        return "200 OK", _TEXT, b"ok\n"

    def _readyz(self, environ: dict[str, Any]) -> Answer:
        obstacle = self._ready()
        if obstacle is None:
            return "200 OK", _TEXT, b"ok\n"
        return "503 Service Unavailable", _TEXT, obstacle.encode() + b"\n"

    def _api_status(self, environ: dict[str, Any]) -> Answer:
        return "200 OK", _JSON, orjson.dumps(self._status(), option=orjson.OPT_APPEND_NEWLINE)

    def _api_greenlets(self, environ: dict[str, Any]) -> Answer:
        return "200 OK", _JSON, orjson.dumps(self._greenlets(), option=orjson.OPT_APPEND_NEWLINE)


def _problem(status: str, text: str) -> Answer:
    body = orjson.dumps({"status": int(status[:3]), "error": text}, option=orjson.OPT_APPEND_NEWLINE)
    return status, _JSON, body


class AdminServer(WSGIServer):
    """pywsgi on the admin socket; ``stop`` also removes the socket from the file system, if it is still this one."""

    def __init__(self, path: str, listener: GeventSocket, app: AdminApp, events: EventLog) -> None:
        super().__init__(listener, app, log=None, error_log=_ErrorLog(events))
        self.path = path
        status = os.stat(path)
        self._identity = (status.st_dev, status.st_ino)

    def fileno(self) -> int:
        """The descriptor of the listening socket."""
        return int(self.socket.fileno())

    def hand_over(self) -> None:
        """Stop, and leave the socket to another process, which has it too. What is under way has a second."""
        super().stop(1.0)

    def stop(self, timeout: float | None = None) -> None:
        """Take no more connections, give open ones ``timeout`` seconds to end, remove the socket."""
        self.unlink()
        super().stop(timeout)

    def unlink(self) -> None:
        """Remove the socket file. One that another process has put in its place is left alone."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return
        if (status.st_dev, status.st_ino) == self._identity:
            os.unlink(self.path)


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
    path: str, app: AdminApp, events: EventLog, *, mode: int = 0o660, inherited: RawSocket | None = None
) -> AdminServer:
    """Serve ``app`` at ``path`` in greenlets, from now until ``stop()``. StartError as for :func:`bind`.

    ``inherited`` is a socket that listens there already.
    """
    if inherited is not None and inherited.getsockname() == path:
        listener = GeventSocket(fileno=inherited.detach())
    else:
        if inherited is not None:
            inherited.close()
        listener = bind(path, mode)
    server = AdminServer(path, listener, app, events)
    server.start()
    events.info(Event.ADMIN_STARTED, socket=path)
    return server
