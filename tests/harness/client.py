"""A client that speaks by hand: a blocking socket, and a parser of answers that shares nothing with Charon's."""

from __future__ import annotations

import http.client
import io
import socket
from dataclasses import dataclass, field
from email.errors import MultipartInvariantViolationDefect, StartBoundaryNotFoundDefect

from tests.harness import PATIENCE
from tests.harness.backends import Headers, reset


class Broken(Exception):
    """The answer ended where more was to come: no client would take it for complete."""

    def __init__(self, what: str, partial: bytes = b"") -> None:
        super().__init__(f"{what} after {len(partial)} bytes of body")
        self.partial = partial


@dataclass
class Response:
    """An answer as it arrived. ``body`` is decoded; ``raw`` is every byte; ``closed`` says that its end was the end."""

    status: int
    reason: str
    version: str
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    raw: bytes = b""
    closed: bool = False

    def values(self, name: str) -> list[str]:
        """The values of a field, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of a field that comes at most once."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} comes {len(values)} times"
        return values[0] if values else None

    @property
    def error(self) -> str | None:
        """The reason, when Charon made this answer."""
        return self.get("X-Charon-Error")


class RawClient:
    """One connection to ``port`` on this machine, or to a Unix socket."""

    def __init__(self, port: int | str, *, host: str = "127.0.0.1", receive_buffer: int | None = None) -> None:
        where = port if isinstance(port, str) else (host, port)
        unix = isinstance(where, str)
        self.sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(where)
        if not unix:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def request(self, line: str, *headers: str, body: bytes = b"", host: str = "test.example") -> None:
        """Send ``GET /path`` as HTTP/1.1 with Host, ``headers`` (whole lines) and ``body`` with its length."""
        lines = [f"{line} HTTP/1.1", f"Host: {host}", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def get(self, path: str = "/", *headers: str) -> Response:
        """GET, and its answer."""
        self.request(f"GET {path}", *headers)
        return self.read_response()

    def post(self, path: str, body: bytes, *headers: str) -> Response:
        """POST with a Content-Length, and its answer."""
        self.request(f"POST {path}", *headers, *([] if body else ["Content-Length: 0"]), body=body)
        return self.read_response()

    def half_close(self) -> None:
        """End the sending side."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close so that the peer sees a reset."""
        reset(self.sock)

    # -- receiving ----------------------------------------------------------------------------------------------

    def recv(self, size: int = 65_536) -> bytes:
        """Some bytes; ``b""`` at the end."""
        if self._buffer:
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        return self.sock.recv(size)

    def recv_until(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``."""
        data = b""
        while mark not in data:
            piece = self.recv()
            if not piece:
                raise Broken(f"no {mark!r} in {data!r}")
            data += piece
        end = data.index(mark) + len(mark)
        self._buffer = data[end:] + self._buffer
        return data[:end]

    def recv_exactly(self, size: int) -> bytes:
        """``size`` bytes."""
        data = bytearray()
        while len(data) < size:
            try:
                piece = self.recv(min(size - len(data), 1 << 20))
            except ConnectionError as error:
                raise Broken(str(error), bytes(data)) from error
            if not piece:
                raise Broken("closed", bytes(data))
            data += piece
        return bytes(data)

    def read_until_close(self) -> bytes:
        """Everything up to the orderly end. Raises ConnectionResetError when there is none."""
        return b"".join(iter(self.recv, b""))

    def read_head(self) -> Response:
        """The next head, which may be an interim one, without its body."""
        raw = self.recv_until(b"\r\n\r\n")
        line, _, rest = raw.partition(b"\r\n")
        version, status, reason = line.decode("latin-1").split(" ", 2)
        parsed = http.client.parse_headers(io.BytesIO(rest))
        # A head has no parts, even where it announces some: that is no defect of it.
        about_parts = (StartBoundaryNotFoundDefect, MultipartInvariantViolationDefect)
        defects = [defect for defect in parsed.defects if not isinstance(defect, about_parts)]
        assert not defects, f"{defects} in {raw!r}"
        return Response(int(status), reason, version, list(parsed.items()), raw=raw)

    def read_response(self, method: str = "GET") -> Response:
        """The next answer, whole, without interim ones. Raises Broken when it ends too early."""
        response = self.read_head()
        while response.status < 200 and response.status != 101:
            response = self.read_head()
        if method == "HEAD" or response.status in (101, 204, 304):
            return response
        coding, length = response.get("Transfer-Encoding"), response.get("Content-Length")
        if coding is not None:
            assert coding == "chunked" and length is None, response.raw
            response.body, response.trailers = self._read_chunked()
        elif length is not None:
            response.body = self.recv_exactly(int(length))
        else:
            response.body = self._read_to_end()
            response.closed = True
        response.raw += response.body
        return response

    def read_chunk(self) -> bytes:
        """The data of the next chunk; ``b""`` for the last one, whose trailers are still to be read."""
        line = self.recv_until(b"\r\n")
        assert b";" not in line, "extensions belong to one hop"
        data = self.recv_exactly(int(line, 16))
        if data:
            assert self.recv_exactly(2) == b"\r\n"
        return data

    def _read_chunked(self) -> tuple[bytes, Headers]:
        body = bytearray()
        try:
            while piece := self.read_chunk():
                body += piece
            lines = list(iter(lambda: self.recv_until(b"\r\n")[:-2].decode("latin-1"), ""))
        except (Broken, ConnectionError) as error:
            partial = error.partial if isinstance(error, Broken) else b""
            raise Broken(str(error), bytes(body) + partial) from error
        return bytes(body), [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]

    def _read_to_end(self) -> bytes:
        body = bytearray()
        try:
            while piece := self.recv():
                body += piece
        except ConnectionError as error:
            raise Broken(str(error), bytes(body)) from error
        return bytes(body)

    def ended(self) -> bool:
        """Whether the connection ends here, in the orderly way and without another byte."""
        return self.recv() == b""
