"""Work under TLS: one certificate for all peers, TLS 1.2 or 1.3, no client certificates."""

import re
import socket
import ssl
import time
from pathlib import Path

from scripts.benchlib.figures import Column, Sample
from scripts.benchlib.http_workloads import Http
from scripts.benchlib.peer import Certificate
from scripts.benchlib.procs import BenchError, Child, load
from scripts.benchlib.workload import REQUEST, Options, get

CLIENTS = 8
"""Processes that make one connection after the other."""


class Https(Http):
    """The same requests as ``http``, over connections that stay."""

    name = "https"
    text = "HTTPS keep-alive, {connections} connections, 100-byte answers, {log}"
    mode = "https"
    scheme = "https"
    request = REQUEST

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options, folder)
        Certificate.make(folder)

    def probe(self, port: int) -> None:
        if port == self.backend_port:
            return super().probe(port)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port), timeout=2) as plain:
            try:
                with context.wrap_socket(plain) as connection:
                    get(connection, self.request)
            except ssl.SSLError as error:
                raise BenchError(str(error)) from error

    def backend(self, port: int) -> Child:
        self.backend_port = port
        return super().backend(port)


class HttpsNew(Https):
    """A connection, a whole handshake, a request and a close, by ``openssl s_time``, which resumes nothing."""

    name = "https-new"
    text = f"HTTPS, a new connection for each request, none resumed, {CLIENTS} clients" + ", {log}"
    request = b"GET / HTTP/1.0\r\n\r\n"  # as openssl asks
    columns = (Column("cpu_us", "CPU µs/connection", 1, ratio=True), Column("per_second", "connections/s", 0))

    def measure(self, peer: Child, port: int) -> Sample:
        warm = self._connect(port, 1)
        before, began = peer.cpu_seconds(), time.monotonic()
        count = self._connect(port, self.options.seconds)
        cpu, took = peer.cpu_seconds() - before, time.monotonic() - began
        return {
            "cpu_us": cpu / count * 1e6,
            "per_second": count / took,
            "units": count,
            "log_lines": warm + count,
        }

    @staticmethod
    def _connect(port: int, seconds: int) -> int:
        """How many connections there were."""
        argv = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-www", "/", "-time", str(seconds)]
        total = 0
        for said in load(*[argv] * CLIENTS):
            found = re.search(r"(\d+) connections in \d+ real seconds, (\d+) bytes", said)
            if found is None or int(found[2]) < len("HTTP/1.1 200 OK"):
                raise BenchError(f"openssl s_time: {said.strip()[-200:]}")
            total += int(found[1])
        return total
