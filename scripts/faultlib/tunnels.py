"""WebSockets through Charon, in a process: ``python -m scripts.faultlib.tunnels PORT COUNT``.

All are opened, then each line on standard input is an order, answered by a line of JSON: ``echo`` sends some bytes of
its own through each and waits until they have come back; ``tell`` does nothing. The answer has ``opened`` and
``echoed``, how many, ``problems``, how many of which kind, and ``ended``, when each ended that did (monotonic seconds).
It ends with its input. The bytes are no frames: nothing on the way may look at them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from time import monotonic

PATIENCE = 15.0
AT_ONCE = 100
_ASK = (
    b"GET /tunnel HTTP/1.1\r\nHost: fault.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Tunnel:
    def __init__(self) -> None:
        self.ended = 0.0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._arrived = bytearray()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None]

    async def open(self, port: int) -> None:
        """Raises OSError, or ValueError for another answer than 101."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(_ASK)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ValueError(head.split(b"\r\n")[0].decode())
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def echo(self) -> bool:
        """Whether some bytes come back as they were, and nothing else."""
        if self.ended:
            return False
        sent = os.urandom(40)
        self._arrived.clear()
        self._writer.write(sent)
        while len(self._arrived) < len(sent) and not self.ended:
            self._more.clear()
            await self._more.wait()
        return bytes(self._arrived) == sent

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65_536):
                self._arrived += data
                self._more.set()
        except ConnectionError:
            pass  # the end is noted, whatever kind it is
        self.ended = monotonic()
        self._more.set()
        self._writer.close()


async def _main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    problems: Counter[str] = Counter()
    tunnels: list[Tunnel] = []
    room = asyncio.Semaphore(AT_ONCE)

    async def open_one() -> None:
        tunnel = Tunnel()
        async with room:
            try:
                await asyncio.wait_for(tunnel.open(port), PATIENCE)
            except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
                problems[f"{type(error).__name__}: {error}"] += 1
            else:
                tunnels.append(tunnel)

    await asyncio.gather(*(open_one() for _ in range(count)))

    def tell(echoed: int) -> None:
        ended = sorted(tunnel.ended for tunnel in tunnels if tunnel.ended)
        found = {"opened": len(tunnels), "echoed": echoed, "problems": problems, "ended": ended}
        print(json.dumps(found), flush=True)

    tell(0)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        echoes: list[bool] = []
        if line.strip() == b"echo":
            asked = [asyncio.create_task(tunnel.echo()) for tunnel in tunnels]
            done, late = await asyncio.wait(asked, timeout=PATIENCE)
            for task in late:
                task.cancel()
            echoes = [task.result() for task in done]
        tell(sum(echoes))


if __name__ == "__main__":
    asyncio.run(_main())
