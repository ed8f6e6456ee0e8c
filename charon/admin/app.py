"""What the supervisor answers on its admin socket and its admin address: metrics, state, the dashboard, and orders.

An ordinary WSGI application on stock pywsgi (:mod:`charon.admin.server`). It is reached by local users who may open
the Unix socket, by whoever has a token over TCP, and through the metrics path of a proxy listener, whose request the
proxy has parsed and writes anew. What each may do is decided in :mod:`charon.admin.permission`; what every path answers
is described in :mod:`charon.admin.openapi`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

import orjson

from charon.admin.permission import Permissions, Rights, TokenProblem, why_foreign
from charon.base.errors import StartError
from charon.base.names import Event
from charon.telemetry.events import LEVELS, EventLog

Answer = tuple[str, str, bytes]
"""Status line, content type, body."""

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Route = Callable[[dict[str, Any]], Answer]

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"
_READ: Final = ("GET", "HEAD")
_WRITE: Final = ("POST",)
_MAX_BODY: Final = 65_536
_LARGEST: Final = 2**53
MAX_DELAY: Final = 3600.0
"""Seconds that a drain may be put off."""

OPEN: Final = frozenset({"/", "/livez", "/readyz"})
"""What everybody gets an answer to: that Charon is there, and a page with nothing in it yet."""

FOR_SCRAPERS: Final = frozenset({"/metrics", "/livez", "/readyz"})
"""What is asked for under any Host: by proxied clients, load balancers, probes."""


class Control(Protocol):
    """What the application shows and does: the supervisor. What it raises is a 500 and an ``admin_failed`` event."""

    def refresh(self) -> None:
        """Bring the totals up to date, before they are rendered."""

    def render(self, accept: str) -> tuple[str, bytes]:
        """The metrics for an Accept field: content type and body."""

    def not_ready(self) -> str | None:
        """None when Charon is serving, else why it is not."""

    def status(self, services: int | None = None, *, history: bool = False) -> dict[str, Any]:
        """The state of everything, as JSON can carry it; of the services at most so many."""

    def problems_since(self, number: int) -> dict[str, Any]:
        """What went wrong after the problem of that number."""

    def config(self) -> dict[str, Any]:
        """The configuration in force, without secrets."""

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


class BadInput(Exception):
    """A request does not say what it should; the text says what."""


class AdminApp:
    """The WSGI application."""

    def __init__(self, control: Control, events: EventLog, permissions: Permissions | None = None) -> None:
        self._control = control
        self._events = events
        self._permissions = permissions or Permissions()
        self.reads: dict[str, Route] = {
            "/": self._page,
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/api/openapi.json": self._openapi,
            "/api/status": self._status,
            "/api/services": lambda environ: self._part("services"),
            "/api/listeners": lambda environ: self._part("listeners"),
            "/api/workers": lambda environ: self._part("workers"),
            "/api/certificates": lambda environ: self._part("certificates"),
            "/api/config": lambda environ: _json("200 OK", self._control.config()),
            "/api/problems": self._problems,
            "/api/greenlets": lambda environ: _json("200 OK", self._control.greenlets()),
            "/api/intercept": lambda environ: self._intercept("show"),
        }
        self.writes: dict[str, Route] = {
            "/api/reload": self._reload,
            "/api/drain": self._drain,
            "/api/log-level": self._log_level,
            "/api/intercept/up": lambda environ: self._intercept("up"),
            "/api/intercept/down": lambda environ: self._intercept("down"),
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method: str = environ["REQUEST_METHOD"]
        path: str = environ["PATH_INFO"]
        more: list[tuple[str, str]] = []
        allowed = _READ if path in self.reads else _WRITE if path in self.writes else ()
        answer = self._refusal(environ, path, more)
        if answer is not None:
            pass
        elif not allowed:
            answer = _problem("404 Not Found", "there is nothing here")
        elif method not in allowed:
            answer = _problem("405 Method Not Allowed", f"only {' and '.join(allowed)} are answered here")
            more.append(("Allow", ", ".join(allowed)))
        else:
            answer = self._answer(self.reads.get(path) or self.writes[path], environ)
            if path == "/":
                more += _page_headers()
        status, content_type, body = answer
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *_SAFE]
        start_response(status, headers + more)
        return [] if method == "HEAD" else [body]

    def _refusal(self, environ: dict[str, Any], path: str, more: list[tuple[str, str]]) -> Answer | None:
        """Why the sender gets no answer; None when it does."""
        foreign = None if path in FOR_SCRAPERS else why_foreign(environ)
        if foreign is not None:
            return _problem("403 Forbidden", foreign)
        if path in OPEN:
            return None
        try:
            rights = self._permissions.rights(environ)
        except TokenProblem as problem:
            self._events.error(Event.ADMIN_FAILED, text=str(problem))
            rights = Rights.NOTHING
        if rights is Rights.NOTHING:
            more.append(("WWW-Authenticate", 'Bearer realm="charon"'))
            return _problem("401 Unauthorized", "a token is needed here: Authorization: Bearer TOKEN")
        if path in self.writes and rights < Rights.WRITE:
            return _problem("403 Forbidden", "you may look, and change nothing here")
        return None

    def _answer(self, route: Route, environ: dict[str, Any]) -> Answer:
        try:
            return route(environ)
        except BadInput as bad:
            return _problem("400 Bad Request", str(bad))
        except Exception as error:  # noqa: BLE001 - the boundary of the application: told, and answered
            self._events.error(Event.ADMIN_FAILED, exc=error, path=environ["PATH_INFO"])
            return _problem("500 Internal Server Error", "Charon failed; its log says how")

    # -- what is read -------------------------------------------------------------------------------------------

    def _page(self, environ: dict[str, Any]) -> Answer:
        from charon.admin.page import page  # the page is kept once it was asked for, and not before

        return "200 OK", _HTML, page().html

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

    def _openapi(self, environ: dict[str, Any]) -> Answer:
        from charon.admin.openapi import document  # seldom asked for

        return _json("200 OK", document())

    def _status(self, environ: dict[str, Any]) -> Answer:
        query = _query(environ, "services", "history")
        services = _whole(query, "services")
        history = query.get("history", "false")
        if history not in ("true", "false"):
            raise BadInput("history is true or false")
        return _json("200 OK", self._control.status(services, history=history == "true"))

    def _part(self, key: str) -> Answer:
        return _json("200 OK", self._control.status()[key])

    def _problems(self, environ: dict[str, Any]) -> Answer:
        return _json("200 OK", self._control.problems_since(_whole(_query(environ, "after"), "after") or 0))

    # -- what is done -------------------------------------------------------------------------------------------

    def _reload(self, environ: dict[str, Any]) -> Answer:
        problems = self._control.reload()
        return _json("422 Unprocessable Content" if problems else "200 OK", {"ok": not problems, "problems": problems})

    def _drain(self, environ: dict[str, Any]) -> Answer:
        delay = _body(environ, "delay_seconds").get("delay_seconds", 0)
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= MAX_DELAY:
            raise BadInput(f"delay_seconds is a number from 0 to {MAX_DELAY:g}")
        self._control.drain(float(delay))
        return _json("202 Accepted", {"ok": True, "delay_seconds": delay})

    def _log_level(self, environ: dict[str, Any]) -> Answer:
        level = _body(environ, "level").get("level")
        if not isinstance(level, str) or level not in LEVELS:
            raise BadInput(f"level is one of {', '.join(LEVELS)}")
        self._control.set_log_level(level)
        return _json("200 OK", {"ok": True, "level": level})

    def _intercept(self, command: str) -> Answer:
        try:
            return _json("200 OK", self._control.intercept(command))
        except StartError as error:
            return _problem("409 Conflict", str(error))


_SAFE: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""Fields of every answer: nobody keeps it, and no page of another site gets hold of it."""


def _page_headers() -> list[tuple[str, str]]:
    from charon.admin.page import page

    return [("Content-Security-Policy", page().policy), ("X-Frame-Options", "DENY")]


def _query(environ: dict[str, Any], *known: str) -> dict[str, str]:
    """The parameters of the query. Raises BadInput for others than ``known``, and for one that is given twice."""
    try:
        found = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        raise BadInput("there are too many parameters") from None
    for name, values in found.items():
        if name not in known or len(values) > 1:
            raise BadInput(f"the parameters are {' and '.join(known)}, each at most once")
    return {name: values[0] for name, values in found.items()}


def _whole(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= _LARGEST):
        raise BadInput(f"{name} is a whole number")
    return int(text)


def _body(environ: dict[str, Any], *known: str) -> dict[str, Any]:
    """The JSON object that a request brings; an empty one when it brings nothing. Raises BadInput."""
    data: bytes = environ["wsgi.input"].read(_MAX_BODY + 1)
    if len(data) > _MAX_BODY:
        raise BadInput(f"the body is longer than {_MAX_BODY} bytes")
    try:
        value = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput("the body is not a JSON object")
    if not value.keys() <= set(known):
        raise BadInput(f"the only key is {' or '.join(known)}")
    return value


def _json(status: str, value: object) -> Answer:
    return status, _JSON, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _problem(status: str, text: str) -> Answer:
    return _json(status, {"status": int(status[:3]), "error": text})
