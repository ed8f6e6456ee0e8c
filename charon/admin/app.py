"""What the supervisor answers on its admin socket: metrics, health of Charon itself, status.

An ordinary WSGI application on stock pywsgi. It is reached by local users who may open the Unix socket, and through
the metrics path of a proxy listener, whose request the proxy has parsed and writes anew; no peer's bytes come here
unparsed.
"""

from __future__ import annotations

import os
from _socket import socket as RawSocket
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import orjson
from gevent.pywsgi import WSGIServer
from gevent.socket import socket as GeventSocket  # noqa: TID251 - what pywsgi takes; charon.net.listen makes it

from charon.base.errors import StartError
from charon.base.names import Event
from charon.net.listen import listen
from charon.telemetry.events import LEVELS, EventLog

Answer = tuple[str, str, bytes]
"""Status line, content type, body."""

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_READ: Final = ("GET", "HEAD")
_WRITE: Final = ("POST",)
_MAX_BODY: Final = 65_536
MAX_DELAY: Final = 3600.0
"""Seconds that a drain may be put off."""


class Control(Protocol):
    """What the application shows and does: the supervisor. What it raises is a 500 and an ``admin_failed`` event."""

    def refresh(self) -> None:
        """Bring the totals up to date, before they are rendered."""

    def render(self, accept: str) -> tuple[str, bytes]:
        """The metrics for an Accept field: content type and body."""

    def not_ready(self) -> str | None:
        """None when Charon is serving, else why it is not."""

    def status(self) -> dict[str, Any]:
        """The state of everything, as JSON can carry it."""

    def greenlets(self) -> dict[str, list[str]]:
        """The names of all greenlets of each process."""

    def reload(self) -> list[str]:
        """Put the configuration in force as it stands now; returns every mistake in it, none when it is in force."""

    def drain(self, delay: float) -> None:
        """Not ready from now on; after ``delay`` seconds, stop."""

    def intercept(self, command: str) -> dict[str, Any]:
        """``show``, ``up`` or ``down`` of the rules of interception. Raises StartError when that cannot be done."""

    def set_log_level(self, level: str) -> None:
        """Log what is of ``level`` and above, in all processes. Raises ValueError for other words."""


class _BadInput(Exception):
    """The body of a request does not say what it should; the text says what."""


class AdminApp:
    """The WSGI application."""

    def __init__(self, control: Control, events: EventLog) -> None:
        self._control = control
        self._events = events
        self._reads: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/api/status": self._api_status,
            "/api/greenlets": self._api_greenlets,
            "/api/intercept": lambda environ: self._api_intercept("show"),
        }
        self._writes: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "/api/reload": self._api_reload,
            "/api/drain": self._api_drain,
            "/api/log-level": self._api_log_level,
            "/api/intercept/up": lambda environ: self._api_intercept("up"),
            "/api/intercept/down": lambda environ: self._api_intercept("down"),
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method: str = environ["REQUEST_METHOD"]
        path: str = environ["PATH_INFO"]
        more: list[tuple[str, str]] = []
        allowed = _READ if path in self._reads else _WRITE if path in self._writes else ()
        if not allowed:
            answer = _problem("404 Not Found", "there is nothing here")
        elif method not in allowed:
            answer = _problem("405 Method Not Allowed", f"only {' and '.join(allowed)} are answered here")
            more.append(("Allow", ", ".join(allowed)))
        else:
            answer = self._answer(self._reads.get(path) or self._writes[path], environ)
        status, content_type, body = answer
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(status, headers + more)
        return [] if method == "HEAD" else [body]

    def _answer(self, route: Callable[[dict[str, Any]], Answer], environ: dict[str, Any]) -> Answer:
        try:
            return route(environ)
        except _BadInput as bad:
            return _problem("400 Bad Request", str(bad))
        except Exception as error:  # noqa: BLE001 - the boundary of the application: told, and answered
            self._events.error(Event.ADMIN_FAILED, exc=error, path=environ["PATH_INFO"])
            return _problem("500 Internal Server Error", "Charon failed; its log says how")

    def _metrics(self, environ: dict[str, Any]) -> Answer:
        self._control.refresh()
        content_type, body = self._control.render(environ.get("HTTP_ACCEPT", ""))
        return "200 OK", content_type, body

    def _livez(self, environ: dict[str, Any]) -> Answer:
        return "200 OK", _TEXT, b"ok\n"

    def _readyz(self, environ: dict[str, Any]) -> Answer:
        obstacle = self._control.not_ready()
        if obstacle is None:
            return "200 OK", _TEXT, b"ok\n"
        return "503 Service Unavailable", _TEXT, obstacle.encode() + b"\n"

    def _api_status(self, environ: dict[str, Any]) -> Answer:
        return _json("200 OK", self._control.status())

    def _api_greenlets(self, environ: dict[str, Any]) -> Answer:
        return _json("200 OK", self._control.greenlets())

    def _api_reload(self, environ: dict[str, Any]) -> Answer:
        problems = self._control.reload()
        return _json("422 Unprocessable Content" if problems else "200 OK", {"ok": not problems, "problems": problems})

    def _api_drain(self, environ: dict[str, Any]) -> Answer:
        delay = _body(environ).get("delay_seconds", 0)
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= MAX_DELAY:
            raise _BadInput(f"delay_seconds is a number from 0 to {MAX_DELAY:g}")
        self._control.drain(float(delay))
        return _json("202 Accepted", {"ok": True, "delay_seconds": delay})

    def _api_log_level(self, environ: dict[str, Any]) -> Answer:
        level = _body(environ).get("level")
        if level not in LEVELS:
            raise _BadInput(f"level is one of {', '.join(LEVELS)}")
        self._control.set_log_level(level)
        return _json("200 OK", {"ok": True, "level": level})

    def _api_intercept(self, command: str) -> Answer:
        try:
            return _json("200 OK", self._control.intercept(command))
        except StartError as error:
            return _problem("409 Conflict", str(error))


def _body(environ: dict[str, Any]) -> dict[str, Any]:
    """The JSON object that a request brings; an empty one when it brings nothing. Raises _BadInput."""
    data: bytes = environ["wsgi.input"].read(_MAX_BODY + 1)
    if len(data) > _MAX_BODY:
        raise _BadInput(f"the body is longer than {_MAX_BODY} bytes")
    try:
        value = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError as error:
        raise _BadInput(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _BadInput("the body is not a JSON object")
    return value


def _json(status: str, value: object) -> Answer:
    return status, _JSON, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _problem(status: str, text: str) -> Answer:
    return _json(status, {"status": int(status[:3]), "error": text})


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
