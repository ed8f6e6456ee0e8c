"""A backend that counts, a process of its own: ``python -m scripts.faultlib.backend PORT``.

Orders come as JSON lines on standard input, and each is answered by a line: ``{"set": {...}}`` changes how it behaves
(:class:`Behaviour`), ``{"tell": true}`` asks what it has seen. It ends with its input. Times are monotonic seconds.

``/wait`` is never answered, ``/download`` never ends, ``/tunnel`` becomes a WebSocket that gives back every byte,
``/sum/N`` is answered as :mod:`scripts.faultlib.sums` says; every other path is answered once the request has come
whole.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import random
import struct
import sys
import termios
from dataclasses import dataclass
from time import monotonic
from typing import Any

from scripts.faultlib import sums

_BLOCK = b"x" * 65_536
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


def _accept(key: str) -> bytes:
    """RFC 6455, section 4.2.2."""
    return base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


@dataclass
class Behaviour:
    """``delay`` before each answer; ``failing``, a share of 0 to 1, is answered with ``status``.

    ``lanes`` is how many requests are worked on at the same time, others wait their turn: with ``delay`` a capacity.

    ``idle`` is how long, at most, a kept connection stays open after an answer; for the last ``deaf`` seconds of that
    nothing is read any more, so that what comes then is lost: the race that every keep-alive connection can run into.

    With ``posts``, a file, only requests that are POST are remembered, by their ids there, a line each: they outlive a
    backend that is killed.
    """

    delay: float = 0.0
    failing: float = 0.0
    status: int = 500
    lanes: int | None = None
    idle: float | None = None
    deaf: float = 0.0
    posts: str | None = None


class Backend:
    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.requests: list[tuple[float, str, str, str]] = []  # when, method, id, path
        self.left: dict[str, float] = {}  # id of a request whose connection ended before its answer did: when
        self.idle_closed = 0
        self.races = 0
        self._lanes: asyncio.Semaphore | None = None
        self._posts = -1

    def tell(self) -> dict[str, Any]:
        seen = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return seen | {"behaviour": vars(self.behaviour)}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # noted where it matters
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await self._head(reader, writer)
        if head is None:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        name = fields.get("x-id", "")
        self._remember(method, name, target)
        body = b""
        try:
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            if target == "/tunnel":
                writer.write(_SWITCH % _accept(fields["sec-websocket-key"]))
                while data := await reader.read(65_536):
                    writer.write(data)
                    await writer.drain()
                return False
            if target == "/wait":
                await reader.readexactly(1)
            if target == "/download":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
                while True:
                    writer.write(_BLOCK)
                    await writer.drain()
                    await asyncio.sleep(0.005)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left[name] = monotonic()
            raise
        behaviour = self.behaviour
        if behaviour.lanes is not None:
            if self._lanes is None:
                self._lanes = asyncio.Semaphore(behaviour.lanes)
            async with self._lanes:
                await asyncio.sleep(behaviour.delay)
        elif behaviour.delay:
            await asyncio.sleep(behaviour.delay)
        status = behaviour.status if behaviour.failing and random.random() < behaviour.failing else 200
        said = b"ok"
        if target.startswith(sums.PATH):
            said = sums.answer(name, method, body, int(target.removeprefix(sums.PATH)))
        writer.write(b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%b" % (status, len(said), said))
        return True

    def _remember(self, method: str, name: str, target: str) -> None:
        if self.behaviour.posts is None:
            self.requests.append((monotonic(), method, name, target))
        elif method == "POST":
            if self._posts < 0:
                self._posts = os.open(self.behaviour.posts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(self._posts, f"{name}\n".encode())

    async def _head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        idle = self.behaviour.idle
        if idle is None or not getattr(writer, "served", False):
            writer.served = True  # type: ignore[attr-defined]
            return await reader.readuntil(b"\r\n\r\n")
        open_for = random.uniform(0, idle)
        try:
            return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), open_for)
        except TimeoutError:
            pass
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(random.uniform(0, self.behaviour.deaf))
        waiting = fcntl.ioctl(writer.get_extra_info("socket").fileno(), termios.FIONREAD, b"\0" * 4)
        self.idle_closed += 1
        self.races += struct.unpack("i", waiting)[0] > 0
        return None

    async def obey(self) -> None:
        """Take orders until there are no more."""
        loop = asyncio.get_running_loop()
        orders = asyncio.StreamReader(limit=1 << 20)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while line := await orders.readline():
            order = json.loads(line)
            for key, value in order.get("set", {}).items():
                setattr(self.behaviour, key, value)
            print(json.dumps(self.tell() if "tell" in order else {}), flush=True)


async def _main() -> None:
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await backend.obey()


if __name__ == "__main__":
    asyncio.run(_main())
