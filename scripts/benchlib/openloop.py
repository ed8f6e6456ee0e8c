"""``openloop PORT RATE SECONDS CONNECTIONS``: requests that are due at a constant rate, whatever the answers do.

A latency counts from the moment at which its request was due: what waits because an earlier answer is late, or
because no connection is free, is late too. Prints one JSON object: ``p50_ms``, ``p99_ms``, ``p999_ms``, ``requests``,
``per_second`` and ``late_percent``, the share that went out over a millisecond after it was due although a connection
was free: that is the generator's own lateness, which is in the latencies as well.
"""

import ctypes
import gc
import json
import select
import socket
import sys
import time
from collections import deque

from scripts.benchlib.figures import percentile

REQUEST = b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n"
END = b"x" * 100
_PR_SET_TIMERSLACK = 29
_LATE = 0.001
_STALLED = 5.0


class OpenLoop:
    """``connections`` are used in turn, each for one request at a time."""

    def __init__(self, port: int, connections: int) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: deque[int] = deque()
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(REQUEST)  # whatever a first request costs is not of this measurement
            self._answer(connection)
            self._sockets[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLIN)
            self._free.append(connection.fileno())

    def run(self, rate: float, seconds: float) -> tuple[list[float], int]:
        """Latencies in seconds, and how many were late by the generator's fault."""
        total = int(rate * seconds)
        due: dict[int, float] = {}
        latencies: list[float] = []
        late = sent = 0
        clock = time.monotonic
        last_blocked = 0.0
        start = heard = clock() + 0.01
        while len(latencies) < total:
            now = clock()
            while sent < total and self._free and (at := start + sent / rate) <= now:
                number = self._free.popleft()
                self._sockets[number].send(REQUEST)
                due[number] = at
                late += now - at > _LATE and at > last_blocked
                sent += 1
                now = clock()
            if not self._free:
                last_blocked = now
            if sent < total and self._free:
                select.select([self._epoll], [], [], max(0.0, start + sent / rate - now))  # finer than epoll's wait
            else:
                select.select([self._epoll], [], [], 1.0)
            for number, _event in self._epoll.poll(0):
                self._answer(self._sockets[number])
                heard = clock()
                latencies.append(heard - due.pop(number))
                self._free.append(number)
            if due and clock() - heard > _STALLED:
                sys.exit(f"no answer for {_STALLED:.0f} s")
        return latencies, late

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()
        self._epoll.close()

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        data = connection.recv(4096)
        while not data.endswith(END):
            more = connection.recv(4096)
            if not more:
                sys.exit(f"cut short: {data[:60]!r}")
            data += more
        if not data.startswith(b"HTTP/1.1 200"):
            sys.exit(f"unexpected answer {data[:60]!r}")


def main() -> None:
    port, rate, seconds, connections = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    gc.disable()
    generator = OpenLoop(port, connections)
    began = time.monotonic()
    latencies, late = generator.run(rate, seconds)
    took = time.monotonic() - began
    latencies.sort()
    count = len(latencies)
    figures = {
        f"p{name}_ms": percentile(latencies, part) * 1e3 for name, part in (("50", 50), ("99", 99), ("999", 99.9))
    }
    print(json.dumps({**figures, "requests": count, "per_second": count / took, "late_percent": late / count * 100}))


if __name__ == "__main__":
    main()
