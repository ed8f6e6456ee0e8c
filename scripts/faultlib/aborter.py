"""Clients that leave in the middle, in a process: ``python -m scripts.faultlib.aborter PORT COUNT RESULT PREFIX``.

Every request ends in one of :data:`MANNERS`, in turn, and then with an ordinary close or a reset; one that the other
side ends first is told as ``cut off``. RESULT gets a JSON object: request id (PREFIX and a number) to [manner, when it
left (monotonic seconds)].
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
from pathlib import Path

AT_ONCE = 50
MANNERS = ("in the head", "uploading", "waiting", "downloading")
_RESET = struct.pack("ii", 1, 0)


async def _leave(port: int, name: str, manner: str, reset: bool) -> float:
    """One request that is given up. Returns when."""
    loop = asyncio.get_running_loop()
    head = f"Host: fault.test\r\nX-Id: {name}\r\n"
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        if manner == "in the head":
            await loop.sock_sendall(sock, f"GET / HTTP/1.1\r\n{head}X-Unfin".encode())
        elif manner == "uploading":
            body = b"x" * random.randint(1, 60_000)
            await loop.sock_sendall(sock, f"POST / HTTP/1.1\r\n{head}Content-Length: 1000000\r\n\r\n".encode() + body)
        elif manner == "waiting":
            await loop.sock_sendall(sock, f"GET /wait HTTP/1.1\r\n{head}\r\n".encode())
        else:
            await loop.sock_sendall(sock, f"GET /download HTTP/1.1\r\n{head}\r\n".encode())
            await loop.sock_recv(sock, random.randint(1, 200_000))
        await asyncio.sleep(random.uniform(0, 0.03))
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        now = loop.time()  # CLOCK_MONOTONIC, as everywhere
    return now


async def _all(port: int, count: int, prefix: str) -> dict[str, tuple[str, float]]:
    left: dict[str, tuple[str, float]] = {}
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            manner, reset = MANNERS[number % 4], number // 4 % 2 == 1
            kind = f"{manner}, {'reset' if reset else 'close'}"
            name = f"{prefix}{number}"
            try:
                left[name] = (kind, await _leave(port, name, manner, reset))
            except ConnectionError:
                left[name] = (f"{manner}, cut off", asyncio.get_running_loop().time())

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return left


def main() -> int:
    left = asyncio.run(_all(int(sys.argv[1]), int(sys.argv[2]), sys.argv[4]))
    Path(sys.argv[3]).write_text(json.dumps(left))
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
