"""Connections that want nothing, or take their time: ``python -m scripts.faultlib.crowd PORT COUNT SEND EVERY``.

SEND is what each says at once, in hexadecimal; then it says a byte more every EVERY seconds while it lives (0: never).
When all are connected it says so, by the answer to an order. Orders are lines on standard input: ``tell``, and
``close``, which closes all of them. The answer is a line of JSON: ``open`` and ``ended``, how many; ``shortest`` and
``longest``, how long those that were ended lived, in seconds; ``statuses``, how often which answer came.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import Counter, deque
from time import monotonic

_MORE = b"a"
_PACE = 0.001


class Crowd:
    def __init__(self, port: int, count: int, send: bytes, every: float) -> None:
        self._every = every
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._due: deque[tuple[float, int]] = deque()
        self._lives: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._poll = select.epoll()
        for _ in range(count):
            self._connect(port, send)
            # The first ones need not wait for the last. Those that drip come at about a thousand a second: it is their
            # slowness that is on trial, not a flood.
            self._wait(_PACE if every else 0)

    def run(self) -> None:
        """Until standard input ends."""
        self.tell()
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        while self._wait(0.2):
            pass

    def tell(self) -> None:
        lives = self._lives or [0.0]
        found = {"open": len(self._open), "ended": len(self._lives), "shortest": min(lives), "longest": max(lives)}
        print(json.dumps(found | {"statuses": self._statuses}), flush=True)

    def _connect(self, port: int, send: bytes) -> None:
        sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        began = monotonic()
        if send:
            sock.sendall(send)
        sock.setblocking(False)
        self._open[sock.fileno()] = sock, began
        self._poll.register(sock.fileno(), select.EPOLLIN)
        if self._every:
            self._due.append((began + self._every, sock.fileno()))

    def _wait(self, seconds: float) -> bool:
        now = monotonic()
        while self._due and self._due[0][0] <= now:
            due, fd = self._due.popleft()
            if self._send_more(fd):
                self._due.append((due + self._every, fd))
        for fd, _ in self._poll.poll(seconds):
            if fd in self._open:
                self._read(fd)
            elif not self._obey(sys.stdin.readline().strip()):
                return False
        return True

    def _obey(self, order: str) -> bool:
        if order == "close":
            for sock, _ in self._open.values():
                sock.close()
            self._open.clear()
            self._due.clear()
        if order:
            self.tell()
        return bool(order)

    def _send_more(self, fd: int) -> bool:
        if fd not in self._open:
            return False
        try:
            self._open[fd][0].send(_MORE)
        except OSError:
            return False  # its end is read
        return True

    def _read(self, fd: int) -> None:
        sock, began = self._open[fd]
        try:
            data = sock.recv(4096)
        except ConnectionError:
            data = b""
        if data:
            self._statuses[data.split(b" ", 2)[1].decode() if data.startswith(b"HTTP/1.1 ") else "other"] += 1
            return
        self._lives.append(monotonic() - began)
        del self._open[fd]
        sock.close()


def main() -> int:
    port, count, send, every = sys.argv[1:]
    Crowd(int(port), int(count), bytes.fromhex(send), float(every)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
