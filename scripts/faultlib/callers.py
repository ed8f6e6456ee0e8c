"""Clients with certificates, each on a new connection: ``python -m scripts.faultlib.callers PORT RATE SECONDS IDENTITY
FOLDER``.

RATE times a second for SECONDS somebody connects, whatever became of the others, shows the certificate in FOLDER,
makes sure that the server has IDENTITY and is of an authority in FOLDER, asks for ``/`` and reads the answer to its
end. No session is resumed. Lines on standard input are orders: ``use FOLDER`` (from now on), and ``tell``, which is
answered once all calls have ended. The answer is a line of JSON: ``calls``, ``failures`` (how often what went wrong),
``serials`` (how many calls were answered under which certificate).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import monotonic

_PATIENCE = 15.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: fault.test\r\nConnection: close\r\n\r\n"


class Callers:
    def __init__(self, port: int, identity: str, folder: str) -> None:
        self._port = port
        self._identity = identity
        self._context = _context(folder)
        self._calls = 0
        self._failures: Counter[str] = Counter()
        self._serials: Counter[str] = Counter()

    async def run(self, rate: float, seconds: float) -> None:
        """Until standard input ends."""
        calls = asyncio.create_task(self._all(rate, seconds))
        loop = asyncio.get_running_loop()
        orders = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while line := await orders.readline():
            word, _, folder = line.decode().strip().partition(" ")
            if word == "use":
                self._context = _context(folder)
            else:
                await calls
                found = {"calls": self._calls, "failures": self._failures, "serials": self._serials}
                print(json.dumps(found), flush=True)

    async def _all(self, rate: float, seconds: float) -> None:
        due = monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(round(rate * seconds)):
                await asyncio.sleep(max(0.0, due - monotonic()))
                group.create_task(self._call())
                due += 1 / rate

    async def _call(self) -> None:
        self._calls += 1
        step = "handshake"
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, ssl=self._context, server_hostname="localhost"
                )
                with closing(writer):
                    shown = writer.get_extra_info("ssl_object").getpeercert()
                    step = "request"
                    writer.write(_REQUEST)
                    answer = await reader.read(-1)
        except (OSError, TimeoutError) as error:
            self._failures[f"{step}: {str(error) or type(error).__name__}"] += 1
            return
        if ("URI", self._identity) not in shown["subjectAltName"]:
            self._failures[f"it is not {self._identity}"] += 1
        elif not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"\r\n\r\nok"):
            self._failures[f"answer: {answer[:40].decode('latin-1')!r}"] += 1
        else:
            self._serials[shown["serialNumber"]] += 1


def _context(folder: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the identity counts
    context.load_verify_locations(Path(folder, "ca-cert.pem"))
    context.load_cert_chain(Path(folder, "client-cert.pem"), Path(folder, "client-key.pem"))
    return context


def main() -> int:
    port, rate, seconds, identity, folder = sys.argv[1:]
    asyncio.run(Callers(int(port), identity, folder).run(float(rate), float(seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
