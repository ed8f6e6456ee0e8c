"""The access log: one line for each request and each relayed connection.

What did not go well, with a reason or a status of 500 or above, is always logged as far as the level lets it; of the
rest a sample can be enough, and some paths can be left out. Lines have the shape of the event log's, but do not pass
through stdlib logging, which would cost several times what the rest of recording a request does. A field that has no
value (``trace_id``, ``request_id``, ``reason``, ``identity``, ...) is left out. Paths, methods, client addresses
and identities are a peer's bytes: they are bounded and escaped here.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, Final

import orjson

from charon.base.clock import SystemClock
from charon.base.names import Event
from charon.telemetry.events import console_line, level_number, use_colours
from charon.telemetry.sink import MAX_LINE, LogSink
from charon.telemetry.text import Timestamps, fit_console, fit_json

MAX_PATH: Final = 1000
"""Characters of a path that are shown."""

_HTTP_REQUEST: Final = Event.HTTP_REQUEST
_NONE, _WARNINGS, _ALL = 0, 1, 2
_NEWLINE: Final = orjson.OPT_APPEND_NEWLINE
_DEL: Final = 0x7F
"""As a number, which is looked for several times faster than as bytes."""


class _Request:
    """What there is to say of one that has ended, until its line is made."""

    __slots__ = (
        "bytes_in",
        "client",
        "destination",
        "identity",
        "listener",
        "method",
        "path",
        "protocol",
        "reason",
        "request_id",
        "retries",
        "route",
        "seconds",
        "size_bytes",
        "span_id",
        "status",
        "trace_id",
        "upstream",
        "wall",
    )

    def __init__(
        self,
        wall: float,
        method: str,
        path: str,
        upstream: str,
        status: int,
        seconds: float,
        size_bytes: int,
        listener: str,
        route: str,
        client: str,
        bytes_in: int,
        retries: int,
        reason: str | None,
        protocol: str,
        trace_id: str | None,
        span_id: str | None,
        identity: str | None,
        request_id: str | None,
        destination: str | None,
    ) -> None:
        self.wall = wall
        self.method = method
        self.path = path
        self.upstream = upstream
        self.status = status
        self.seconds = seconds
        self.size_bytes = size_bytes
        self.listener = listener
        self.route = route
        self.client = client
        self.bytes_in = bytes_in
        self.retries = retries
        self.reason = reason
        self.protocol = protocol
        self.trace_id = trace_id
        self.span_id = span_id
        self.identity = identity
        self.request_id = request_id
        self.destination = destination


class AccessLog:
    """Access lines into ``sink``. ``fmt`` is ``json`` or ``console``, ``level`` the least level that is written.

    A line is of level ``info``, or ``warning`` when it has a reason, as every answer that Charon made itself has.
    ``wall`` gives Unix seconds. ``on_problem`` is called with the fields of each line that has a reason or a status of
    500 or above.
    """

    def __init__(
        self, sink: LogSink, fmt: str = "json", level: str = "info", *, wall: Callable[[], float] | None = None
    ) -> None:
        if fmt not in ("json", "console"):
            raise ValueError(f"unknown log format {fmt!r}; known are json, console")
        self._write = sink.write
        self._write_later = sink.write_later
        self._console = fmt == "console"
        self._colours = self._console and use_colours(sink)
        self._wall = wall or SystemClock().wall
        self._timestamp = Timestamps().format
        self.on_problem: Callable[[dict[str, Any]], None] | None = None
        self.set_level(level)
        self.choose(1.0, ())

    def set_level(self, level: str) -> None:
        """Write lines of ``level`` and above from now on."""
        number = level_number(level)
        self._shown = _ALL if number <= logging.INFO else _WARNINGS if number == logging.WARNING else _NONE

    def choose(self, sample: float, exclude_paths: tuple[str, ...]) -> None:
        """From now on write the share ``sample`` (0 to 1) of lines, and none for what is below ``exclude_paths``."""
        self._sample = sample
        self._excluded = frozenset(exclude_paths)
        self._excluded_below = tuple(path.rstrip("/") + "/" for path in exclude_paths)
        self._choosy = sample < 1.0 or bool(exclude_paths)

    def _skips(self, path: str) -> bool:
        if path in self._excluded or path.startswith(self._excluded_below):
            return True
        return self._sample < 1.0 and random.random() >= self._sample  # noqa: S311 - no secret

    def http(
        self,
        method: str,
        path: str,
        upstream: str,
        status: int,
        seconds: float,
        size_bytes: int,
        listener: str,
        route: str,
        client: str,
        bytes_in: int,
        retries: int,
        reason: str | None,
        protocol: str,
        trace_id: str | None = None,
        span_id: str | None = None,
        identity: str | None = None,
        request_id: str | None = None,
        destination: str | None = None,
    ) -> None:
        """One request ended. ``upstream`` is an endpoint's name or ``NO_UPSTREAM``; ``reason`` is a reason word.

        ``seconds`` is the time from the first byte of the request to the last of the answer, ``size_bytes`` what was
        sent of the body of the answer, ``bytes_in`` what was received of the body of the request.
        """
        if self._shown != _ALL and (not reason or self._shown == _NONE):
            return
        if self._choosy and not reason and status < 500 and self._skips(path):
            return
        request = _Request(
            self._wall(), method, path, upstream, status, seconds, size_bytes, listener, route, client, bytes_in,
            retries, reason, protocol, trace_id, span_id, identity, request_id, destination,
        )  # fmt: skip
        if not reason and status < 500:
            self._write_later(self._line_of, request)
            return
        line = self._fields_of(request)
        self._write(self._encode(line))
        if self.on_problem is not None:
            self.on_problem(line)

    def _line_of(self, request: _Request) -> bytes:
        return self._encode(self._fields_of(request))

    def _fields_of(self, request: _Request) -> dict[str, Any]:
        reason = request.reason
        line: dict[str, Any] = {
            "timestamp": self._timestamp(request.wall),
            "level": "warning" if reason else "info",
            "message": _HTTP_REQUEST,
            "method": request.method,
            "path": request.path,
            "upstream": request.upstream,
            "status": request.status,
            "latency_ms": int(request.seconds * 1e6) / 1e3,
            "size_bytes": request.size_bytes,
            "listener": request.listener,
            "route": request.route,
            "client": request.client,
            "bytes_in": request.bytes_in,
            "retries": request.retries,
            "protocol": request.protocol,
        }
        if reason:
            line["reason"] = reason
        if request.request_id:
            line["request_id"] = request.request_id
        if request.trace_id:
            line["trace_id"] = request.trace_id
            line["span_id"] = request.span_id
        if request.identity:
            line["identity"] = request.identity
        if request.destination:
            line["destination"] = request.destination
        return line

    def tcp(
        self,
        listener: str,
        client: str,
        upstream: str,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
        reason: str | None = None,
        identity: str | None = None,
        destination: str | None = None,
    ) -> None:
        """One relayed connection ended after ``seconds``, having brought ``bytes_in`` from its client.

        ``destination`` is where it was going, where a rule of the kernel had brought it here.
        """
        if self._shown != _ALL and (not reason or self._shown == _NONE):
            return
        if self._choosy and not reason and self._skips(""):
            return
        line: dict[str, Any] = {
            "timestamp": self._timestamp(self._wall()),
            "level": "warning" if reason else "info",
            "message": Event.TCP_CONNECTION,
            "listener": listener,
            "client": client,
            "upstream": upstream,
            "duration_ms": int(seconds * 1e6) / 1e3,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
        }
        if reason:
            line["reason"] = reason
        if identity:
            line["identity"] = identity
        if destination:
            line["destination"] = destination
        self._write(self._encode(line))
        if reason and self.on_problem is not None:
            self.on_problem(line)

    def _encode(self, line: dict[str, Any]) -> bytes:
        """``line`` as it is when nothing in it needs care, which is nearly always."""
        if self._console or len(line.get("path", "")) > MAX_PATH:
            return self._careful(line)
        try:
            encoded = orjson.dumps(line, option=_NEWLINE)
        except orjson.JSONEncodeError:  # text with surrogates: undecodable bytes
            return self._careful(line)
        if len(encoded) > MAX_LINE or not encoded.isascii() or _DEL in encoded:
            return self._careful(line)
        return encoded

    def _careful(self, line: dict[str, Any]) -> bytes:
        """``line`` with every text bounded and made safe to show, whatever is in it."""
        if self._console:
            return fit_console(line, MAX_LINE, lambda shown: console_line(shown, self._colours))
        return fit_json(line, MAX_LINE)
