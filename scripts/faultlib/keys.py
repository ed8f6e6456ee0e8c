"""Requests with many keys, as fast as they are answered: ``python -m scripts.faultlib.keys PORT COUNT EACH``.

``X-Key`` counts up, once for EACH requests. They are pipelined on a few connections. Says, as JSON, how many answers
had which status.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from collections import Counter
from contextlib import ExitStack

CONNECTIONS = 16
BATCH = 50
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def _batch(numbers: range, each: int) -> bytes:
    return b"".join(b"GET / HTTP/1.1\r\nHost: a\r\nX-Key: %d-%d\r\n\r\n" % (each, n // each) for n in numbers)


def _answers(sock: socket.socket, count: int) -> Counter[str]:
    """The statuses of ``count`` answers, none of which has a body that looks like a status line."""
    data = b""
    while True:
        statuses = _STATUS.findall(data)
        if len(statuses) >= count and data.count(b"\r\n\r\n") >= count:
            return Counter(status.decode() for status in statuses)
        more = sock.recv(1 << 18)
        if not more:
            raise ConnectionError(f"closed after {len(statuses)} of {count} answers")
        data += more


def main() -> int:
    port, count, each = (int(word) for word in sys.argv[1:])
    total: Counter[str] = Counter()
    with ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(CONNECTIONS)
        ]
        step = BATCH * CONNECTIONS
        for start in range(0, count, step):
            sent = []
            for place, sock in enumerate(socks):
                begin = start + place * BATCH
                numbers = range(begin, min(begin + BATCH, count))
                if numbers:
                    sock.sendall(_batch(numbers, each))
                    sent.append((sock, len(numbers)))
            for sock, asked in sent:
                total += _answers(sock, asked)
    print(json.dumps(total), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
