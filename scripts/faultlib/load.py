"""An open-loop load generator, a process of its own: requests leave when they are due, whatever became of the others.

``python -m scripts.faultlib.load SPECIFICATION RESULT all|failures``: streams of requests as JSON, where the result is
written, and which answers stand in it; those that went well are counted in either case. It says ``began SECONDS``
(monotonic) when the first request is due. Latency counts from when a request was due, so that a stall shows in all the
requests that it delays.

Every request that does not get its whole answer is a failure and is told as one, whatever the reason; nothing is tried
again. A connection that ends while it carries no request is no failure: it is not used again, as any client does. One
that ends under a request, before a byte of the answer, is a failure all the same, although a client might try again
what was sent on a kept-alive connection: the reason says that it was one, so that a reader may judge.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from scripts.faultlib import sums

PATIENCE = 15.0
"""Seconds after the last request in which answers still count."""

MOST_CONNECTIONS = 2000

WRONG = "wrong: "
"""How the reason begins of an answer that came whole and is not the one that was due."""


@dataclass(frozen=True)
class Stream:
    """``rate`` requests a second from ``start`` on, evenly spaced or (``poisson``) by chance."""

    name: str
    port: int
    rate: float
    seconds: float
    start: float = 0.0
    method: str = "GET"
    path: str = "/"
    body: int = 0
    poisson: bool = False
    fresh: bool = False
    """A connection for each request."""
    tls: bool = False
    """Over TLS; whom the other side is, is not looked at."""
    certificates: str = ""
    """Folder of the certificate that is shown (``client-cert.pem``, ``client-key.pem``)."""
    checked: bool = False
    """The path is one of :mod:`scripts.faultlib.sums`; each byte of the answer is compared."""


class Answer(NamedTuple):
    """What became of a request. Times are monotonic seconds; ``status`` is 0 where there was no answer, and ``reason``
    then says why; else it is Charon's own reason word, or empty."""

    stream: str
    id: str
    method: str
    due: float
    sent: float
    done: float
    status: int
    reason: str

    @property
    def latency(self) -> float:
        return self.done - self.due


class _Request:
    __slots__ = ("due", "id", "sent", "stream")

    def __init__(self, stream: Stream, number: int, due: float) -> None:
        self.stream = stream
        self.id = f"{stream.name}-{number}"
        self.due = due
        self.sent = 0.0

    def bytes(self) -> bytes:
        stream = self.stream
        length = f"Content-Length: {stream.body}\r\n" if stream.body or stream.method == "POST" else ""
        last = "Connection: close\r\n" if stream.fresh else ""
        head = f"{stream.method} {stream.path} HTTP/1.1\r\nHost: fault.test\r\nX-Id: {self.id}\r\n{last}{length}\r\n"
        return head.encode() + self.body()

    def body(self) -> bytes:
        size = self.stream.body
        return sums.question(self.id, size) if self.stream.checked else b"x" * size

    def differs(self, body: bytes) -> str:
        """What is wrong with the body of an answer of status 200."""
        stream = self.stream
        if not stream.checked:
            return ""
        wanted = sums.answer(self.id, stream.method, self.body(), int(stream.path.removeprefix(sums.PATH)))
        return "" if body == wanted else f"{WRONG}{body[:90]!r} and so on, {len(body)} bytes for {len(wanted)}"


class _Connection(asyncio.Protocol):
    """One connection to Charon; it carries one request at a time."""

    def __init__(self, generator: Generator, port: int) -> None:
        self.generator = generator
        self.port = port
        self.request: _Request | None = None
        self.transport: asyncio.Transport | None = None
        self._data = b""
        self._carried = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: _Request) -> None:
        assert self.transport is not None
        self.request = request
        self._carried += 1
        request.sent = monotonic()
        self.transport.write(request.bytes())

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, mark, body = self._data.partition(b"\r\n\r\n")
        if not mark:
            return
        fields = {key.lower(): value.strip() for key, _, value in (x.partition(b":") for x in head.split(b"\r\n")[1:])}
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        self._data = b""
        request, self.request = self.request, None
        assert self.transport is not None
        if request is None:
            self.generator.stray(data)
            self.transport.abort()
            return
        status, reason = int(head.split(b" ", 2)[1]), fields.get(b"x-charon-error", b"").decode()
        if status == 200:
            reason = reason or request.differs(body)
        self.generator.finish(request, status, reason)
        if request.stream.fresh or fields.get(b"connection", b"").lower() == b"close":
            self.transport.close()
        else:
            self.generator.idle[self.port].append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.generator.connections -= 1
        if self in self.generator.idle[self.port]:
            self.generator.idle[self.port].remove(self)
        if self.request is not None:
            how = "reset" if error else "closed"
            when = "amid the answer" if self._data else "without an answer"
            where = "kept-alive" if self._carried > 1 else "new"
            self.generator.finish(self.request, 0, f"{how} {when}, {where} connection")


class Generator:
    """All streams together. ``answers`` are all, or without ``keep_good`` those that did not go well; ``good`` are how
    many of each stream did, and ``milliseconds`` how many of those took how long."""

    def __init__(self, streams: list[Stream], keep_good: bool = True) -> None:
        self.idle: dict[int, list[_Connection]] = {stream.port: [] for stream in streams}
        self.connections = 0
        self.answers: list[Answer] = []
        self.good: Counter[str] = Counter()
        self.milliseconds: Counter[int] = Counter()
        self._keep_good = keep_good
        self._streams = streams
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def run(self) -> list[Answer]:
        began = monotonic() + 0.05
        print(f"began {began}", flush=True)
        await asyncio.gather(*(self._stream(stream, began + stream.start) for stream in self._streams))
        cutoff = monotonic() + PATIENCE
        while self._open and monotonic() < cutoff:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), cutoff - monotonic())
            except TimeoutError:
                break
        return self.answers + [
            Answer("?", "", "", cutoff, cutoff, cutoff, 0, f"no answer in {PATIENCE:g} s") for _ in range(self._open)
        ]

    async def _stream(self, stream: Stream, began: float) -> None:
        due = began
        for number in range(round(stream.rate * stream.seconds)):
            if (wait := due - monotonic()) > 0:
                await asyncio.sleep(wait)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # late: answers must be read all the same
            self._launch(_Request(stream, number, due))
            due += random.expovariate(stream.rate) if stream.poisson else 1 / stream.rate

    def _launch(self, request: _Request) -> None:
        self._open += 1
        idle = self.idle[request.stream.port]
        if idle and not request.stream.fresh:
            idle.pop().send(request)
        elif self.connections >= MOST_CONNECTIONS:
            self.finish(request, 0, f"{MOST_CONNECTIONS} connections are busy")
        else:
            self.connections += 1
            task = asyncio.get_running_loop().create_task(self._connect(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, request: _Request) -> None:
        port = request.stream.port
        context = _no_questions(request.stream.certificates) if request.stream.tls else None
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self, port), "127.0.0.1", port, ssl=context, ssl_handshake_timeout=None
            )
        except OSError as error:
            self.connections -= 1
            self.finish(request, 0, f"cannot connect: {error.strerror or error}")
        else:
            connection.send(request)

    def finish(self, request: _Request, status: int, reason: str) -> None:
        """A request has ended, one way or another."""
        stream = request.stream
        self._open -= 1
        self._changed.set()
        answer = Answer(stream.name, request.id, stream.method, request.due, request.sent, monotonic(), status, reason)
        if good := status == 200 and not reason:
            self.good[stream.name] += 1
            self.milliseconds[round(answer.latency * 1000)] += 1
        if self._keep_good or not good:
            self.answers.append(answer)

    def stray(self, data: bytes) -> None:
        """Bytes have come that nobody has asked for."""
        now = monotonic()
        self.answers.append(Answer("?", "", "", now, now, now, 200, f"{WRONG}nobody asked for {data[:60]!r}"))


@cache
def _no_questions(certificates: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificates:
        context.load_cert_chain(Path(certificates, "client-cert.pem"), Path(certificates, "client-key.pem"))
    return context


def specification(streams: list[Stream]) -> str:
    return json.dumps([asdict(stream) for stream in streams])


def main() -> int:
    streams = [Stream(**item) for item in json.loads(Path(sys.argv[1]).read_text())]

    async def everything() -> dict[str, object]:
        generator = Generator(streams, sys.argv[3] == "all")
        answers = await generator.run()
        return {"answers": answers, "good": generator.good, "milliseconds": generator.milliseconds}

    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(everything())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
