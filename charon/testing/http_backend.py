"""An HTTP server to put behind a proxy: ``python -m charon.testing.http_backend --addr :9091``.

======================  ========================================================================================
``/``, any other path   200; the method, target, headers and body size of the request, as text
``/fail``               500
``/slow?ms=N``          200 after N milliseconds (default 1000)
``/status/NNN``         status NNN (200 to 599)
``/stream?chunks=&ms=`` 200, chunked: so many chunks (default 5), so many milliseconds apart (default 100)
``/bytes/N``            200, N bytes: byte number i is i modulo 251
======================  ========================================================================================
"""

from __future__ import annotations

import argparse
import http
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import gevent
from gevent.pywsgi import WSGIHandler, WSGIServer

from charon.testing.listener import bound_address, listen, parse_address
from charon.testing.program import serve_until_stopped

BLOCK_BYTES = 65_536
KEPT_REQUESTS = 10_000
PATTERN_PERIOD = 251  # prime: no block size of anyone's is a multiple of it, so lost or doubled blocks show
_PATTERN = bytes(range(PATTERN_PERIOD)) * (BLOCK_BYTES // PATTERN_PERIOD + 2)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as it arrived: target undecoded, header names in their own case and order, the body's size in bytes."""

    method: str
    target: str
    headers: Headers
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back. ``length`` is None for a chunked body."""

    status: int
    body: Iterable[bytes]
    length: int | None
    content_type: str = "text/plain; charset=utf-8"

    @classmethod
    def text(cls, status: int, text: str) -> Answer:
        data = text.encode()
        return cls(status, (data,), len(data))


class NotUnderstood(Exception):
    """A path or query of ours with a value that makes no sense; answered with 400."""


def pattern(length: int) -> Iterator[bytes]:
    """``length`` bytes in blocks; byte number i is i modulo 251."""
    for position in range(0, length, BLOCK_BYTES):
        start = position % PATTERN_PERIOD
        yield _PATTERN[start : start + min(BLOCK_BYTES, length - position)]


class _Handler(WSGIHandler):
    """Hands the application what WSGI loses: the target as sent, and header names in their case and order."""

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["backend.target"] = self.path
        pairs = (line.partition(":") for line in self.headers.headers)
        environ["backend.headers"] = tuple((name, value.strip()) for name, _, value in pairs)
        return environ


class HttpBackend(WSGIServer):
    """The server. As a library: ``backend = HttpBackend("127.0.0.1:0"); backend.start(); backend.server_port``.

    ``seen`` holds the latest requests, oldest first, each added when its body has arrived whole.
    Raises ValueError for an address that is none, OSError when it cannot be bound.
    """

    def __init__(self, address: str) -> None:
        listener = listen(*parse_address(address))
        self.seen: deque[SeenRequest] = deque(maxlen=KEPT_REQUESTS)
        # A name given here saves a reverse lookup, which can take seconds.
        super().__init__(listener, self._serve, log=None, handler_class=_Handler, environ={"SERVER_NAME": "backend"})
        self.address = listener.getsockname()
        self.name = bound_address(listener)

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = SeenRequest(
            environ["REQUEST_METHOD"], environ["backend.target"], environ["backend.headers"], _drain(environ)
        )
        self.seen.append(request)
        try:
            answer = self._answer(request, environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"]))
        except NotUnderstood as problem:
            answer = Answer.text(400, f"{problem}\n")
        headers = [("X-Backend", self.name)]
        bodiless = answer.status in (204, 304)
        if not bodiless:
            headers.append(("Content-Type", answer.content_type))
            if answer.length is not None:
                headers.append(("Content-Length", str(answer.length)))
        start_response(f"{answer.status} {_phrase(answer.status)}", headers)
        return () if bodiless or request.method == "HEAD" else answer.body

    def _answer(self, request: SeenRequest, path: str, query: dict[str, list[str]]) -> Answer:
        match path.split("/")[1:]:
            case ["fail"]:
                return Answer.text(500, "failed, as asked\n")
            case ["slow"]:
                milliseconds = _number("ms", query.get("ms", ["1000"])[-1], 0, 3_600_000)
                gevent.sleep(milliseconds / 1000)
                return Answer.text(200, f"waited {milliseconds} ms\n")
            case ["status", text]:
                status = _number("status", text, 200, 599)
                return Answer.text(status, f"{status} {_phrase(status)}\n")
            case ["stream"]:
                chunks = _number("chunks", query.get("chunks", ["5"])[-1], 0, 1_000_000)
                milliseconds = _number("ms", query.get("ms", ["100"])[-1], 0, 3_600_000)
                return Answer(200, _stream(chunks, milliseconds / 1000), None)
            case ["bytes", text]:
                length = _number("bytes", text, 0, 1 << 40)
                return Answer(200, pattern(length), length, "application/octet-stream")
            case _:
                return Answer.text(200, self._describe(request))

    def _describe(self, request: SeenRequest) -> str:
        lines = [
            f"backend: {self.name}",
            f"method: {request.method}",
            f"path: {request.target}",
            f"body: {request.body_bytes} bytes",
            "headers:",
            *(f"  {name}: {value}" for name, value in request.headers),
        ]
        return "\n".join(lines) + "\n"


def _drain(environ: dict[str, Any]) -> int:
    """Read the request body to its end; its size in bytes."""
    return sum(len(block) for block in iter(lambda: environ["wsgi.input"].read(BLOCK_BYTES), b""))


def _stream(chunks: int, pause: float) -> Iterator[bytes]:
    for number in range(1, chunks + 1):
        if number > 1:
            gevent.sleep(pause)
        yield f"chunk {number} of {chunks}\n".encode()


def _number(name: str, text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and lowest <= int(text) <= highest):
        raise NotUnderstood(f"{name} must be a whole number from {lowest} to {highest}")
    return int(text)


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Status"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="http_backend", description="HTTP server to put behind a proxy.")
    parser.add_argument("--addr", default=":9091", help="HOST:PORT or :PORT; port 0 is chosen (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        parse_address(options.addr)
    except ValueError as problem:
        parser.error(str(problem))
    return serve_until_stopped(lambda: HttpBackend(options.addr))


if __name__ == "__main__":
    sys.exit(main())
