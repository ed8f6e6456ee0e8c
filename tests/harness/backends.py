"""Servers to put behind Charon: one that does exactly what a test says, byte by byte, and the shipped ones."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.harness import PATIENCE

Headers = list[tuple[str, str]]


class Closed(Exception):
    """The peer ended the connection where more was to come."""


@dataclass
class Request:
    """A request as it arrived. ``headers`` are in order, names as sent; ``body`` is decoded; ``raw`` is every byte."""

    method: str
    target: str
    version: str
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    raw: bytes = b""

    def values(self, name: str) -> list[str]:
        """The values of a field, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of a field that comes at most once."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} comes {len(values)} times"
        return values[0] if values else None


class Connection:
    """One connection on the server's side. ``received`` is every byte so far, read by hand or not."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.number = number
        self.received = b""
        self._buffer = b""

    # -- reading ------------------------------------------------------------------------------------------------

    def recv(self, size: int = 65_536) -> bytes:
        """Some bytes; ``b""`` at the end."""
        if self._buffer:
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        data = self.sock.recv(size)
        self.received += data
        return data

    def recv_exactly(self, size: int) -> bytes:
        """``size`` bytes. Raises Closed when there are fewer."""
        data = bytearray()
        while len(data) < size:
            piece = self.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise Closed(f"{len(data)} of {size} bytes")
            data += piece
        return bytes(data)

    def recv_until(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``. Raises Closed when it does not come."""
        data = b""
        while mark not in data:
            piece = self.recv()
            if not piece:
                raise Closed(f"no {mark!r} in {data!r}")
            data += piece
        end = data.index(mark) + len(mark)
        self._buffer = data[end:] + self._buffer
        return data[:end]

    def read_head(self) -> Request:
        """A request's head. Raises Closed when the connection ends first."""
        raw = self.recv_until(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        return Request(method, target, version, _headers(lines), raw=raw)

    def read_request(self) -> Request:
        """A whole request; a chunked body is decoded."""
        request = self.read_head()
        if request.values("transfer-encoding"):
            request.body, request.trailers = self.read_chunked()
        else:
            request.body = self.recv_exactly(int(request.get("content-length") or 0))
        return request

    def read_chunk(self) -> bytes:
        """The data of the next chunk; ``b""`` for the last one, whose trailers are still to be read."""
        size = int(self.recv_until(b"\r\n").split(b";")[0], 16)
        if not size:
            return b""
        data = self.recv_exactly(size)
        assert self.recv_exactly(2) == b"\r\n"
        return data

    def read_chunked(self) -> tuple[bytes, Headers]:
        """A chunked body and its trailers."""
        body = b"".join(iter(self.read_chunk, b""))
        lines = iter(lambda: self.recv_until(b"\r\n")[:-2].decode("latin-1"), "")
        return body, _headers(list(lines))

    def wait_for_end(self) -> bool:
        """Read until the peer ends its side: True when in the orderly way, False when by a reset."""
        try:
            while self.recv():
                pass
        except ConnectionError:
            return False
        return True

    # -- writing ------------------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> None:
        self.sock.sendall(data)

    def send_chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def half_close(self) -> None:
        """End the sending side."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # the peer has reset meanwhile: it will not read the end
                raise

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close so that the peer sees a reset."""
        reset(self.sock)


Script = Callable[[Connection], None]


def _headers(lines: list[str]) -> Headers:
    pairs = (line.partition(":") for line in lines)
    return [(name, value.strip(" \t")) for name, _, value in pairs]


def reset(sock: socket.socket) -> None:
    """Close a socket so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def http_response(
    status: int = 200, body: bytes = b"", *headers: str, reason: str = "Said", length: bool = True, version: str = "1.1"
) -> bytes:
    """A response: status line, ``headers`` (whole lines without their ends), Content-Length unless told, and body."""
    lines = [f"HTTP/{version} {status} {reason}", *headers]
    if length and status >= 200 and status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*pieces: bytes, trailers: tuple[str, ...] = ()) -> bytes:
    """A chunked body."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return data + b"0\r\n" + "".join(f"{line}\r\n" for line in trailers).encode() + b"\r\n"


def answering(response: bytes) -> Script:
    """Answers every request with the same bytes, for as long as the connection lasts."""

    def script(connection: Connection) -> None:
        while True:
            try:
                connection.read_request()
            except Closed:
                return
            connection.send(response)

    return script


class ScriptedBackend:
    """A TCP server in a thread. Each connection is given to ``script``, in a thread of its own, and closed after it.

    ``requests`` holds what :meth:`serve` has read. A failure of a script (other than its peer leaving) is raised by
    :meth:`check`, which the end of a ``with`` block calls. Tests may change ``script`` at any time; it counts for
    connections from then on.
    """

    def __init__(self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.script = script or answering(http_response(200, b"hello"))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __repr__(self) -> str:
        return f"<ScriptedBackend {self.address} connections={len(self.connections)}>"

    def __enter__(self) -> ScriptedBackend:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is None:
            self.check()

    def serve(self, answer: Callable[[Request], bytes] | bytes) -> None:
        """From now on answer whole requests, which are kept in ``requests``."""

        def script(connection: Connection) -> None:
            while True:
                try:
                    request = connection.read_request()
                except Closed:
                    return
                with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                connection.send(answer if isinstance(answer, bytes) else answer(request))

        self.script = script

    def received(self) -> bytes:
        """Every byte of every connection."""
        return b"".join(connection.received for connection in self.connections)

    def wait_for_connections(self, count: int) -> list[Connection]:
        """All connections, once there are ``count``."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.connections) >= count, PATIENCE), repr(self)
            return list(self.connections)

    def wait_for_requests(self, count: int) -> list[Request]:
        """All requests that :meth:`serve` has read, once there are ``count``."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE), f"{len(self.requests)}"
            return list(self.requests)

    def forget(self) -> None:
        """Break all connections and begin anew, for the next test. Raises what a script has raised."""
        for connection in self.connections:
            _shut(connection.sock)
        for thread in self._threads:
            thread.join(PATIENCE)
        stuck = [thread for thread in self._threads if thread.is_alive()]
        self.connections.clear()
        self.requests.clear()
        self._threads.clear()
        self.script = answering(http_response(200, b"hello"))
        self.check()
        assert not stuck, "a script does not end"

    def check(self) -> None:
        """Raise what a script has raised."""
        failures, self._failures = self._failures, []
        if failures:
            raise failures[0]

    def stop(self) -> None:
        """End everything."""
        _shut(self._listener)
        self._accepting.join(PATIENCE)
        self._listener.close()
        for connection in self.connections:
            _shut(connection.sock)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # stopped
            connection = Connection(sock, len(self.connections))
            thread = threading.Thread(target=self._run, args=(self.script, connection), daemon=True)
            with self._changed:
                self.connections.append(connection)
                self._changed.notify_all()
            thread.start()
            self._threads.append(thread)  # only now: who forgets joins what stands here

    def _run(self, script: Script, connection: Connection) -> None:
        try:
            script(connection)
        except (ConnectionError, Closed):
            pass  # the peer left; a test that cares looks at what arrived
        except OSError as error:
            if connection.sock.fileno() >= 0:  # not when the test has ended meanwhile
                self._failures.append(error)
        except BaseException as error:  # noqa: BLE001 - raised again by check()
            self._failures.append(error)
        finally:
            connection.close()


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed already


_reserved: list[socket.socket] = []


def refused_address() -> str:
    """An address on which nobody listens, nor will: the port is taken by a socket that only holds it."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    _reserved.append(sock)
    return f"127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """An address on which connecting neither succeeds nor fails: its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


@dataclass(frozen=True)
class Program:
    """A server program that has said where it listens."""

    process: subprocess.Popen[str]
    host: str
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def program(module: str, *arguments: str) -> Iterator[Program]:
    """``charon.testing.MODULE`` as a process: ``program("http_backend", "--addr", "127.0.0.1:0")``."""
    command = [sys.executable, "-m", f"charon.testing.{module}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words, _, address = process.stdout.readline().strip().rpartition(" ")
            assert words == "listening on"
            host, _, port = address.rpartition(":")
            yield Program(process, host.strip("[]"), int(port))
        finally:
            process.kill()
