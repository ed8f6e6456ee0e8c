"""Large bodies over HTTP, one after the other on connections that stay: from a file of the backend, and to a sink."""

import os
import socket
import struct
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from scripts.benchlib.figures import Column, Sample, percentile
from scripts.benchlib.nginx import serving
from scripts.benchlib.procs import LOAD_CORES, BenchError, Child
from scripts.benchlib.workload import Options, Workload

MB = 1_000_000
_PIECE = 1 << 20
_MAX_HEAD = 16384


class Bulk(Workload):
    """``size`` is that of one body, in bytes."""

    size = MB
    logged = bulk = True
    references = ("envoy", "nginx", "haproxy")
    columns = (
        Column("cpu_s_per_gb", "CPU s/GB", 3, ratio=True),
        Column("gb_per_second", "GB/s", 2),
        Column("p50_ms", "p50 ms/body", 1),
        Column("p99_ms", "p99 ms/body", 1),
        Column("p999_ms", "p99.9 ms/body", 1),
    )
    overhead_s = 1.5

    def carry(self, connection: socket.socket) -> None:
        """One body and what belongs to it; BenchError when it did not go well."""
        raise NotImplementedError

    def measure(self, peer: Child, port: int) -> Sample:
        took: list[float] = []
        with self._connected(port) as connection:
            warm = self._repeat(connection, 0.5, [])
            before, began = peer.cpu_seconds(), time.monotonic()
            count = self._repeat(connection, self.options.seconds, took)
            cpu, elapsed = peer.cpu_seconds() - before, time.monotonic() - began
        gigabytes = count * self.size / 1e9
        took.sort()
        return {
            "cpu_s_per_gb": cpu / gigabytes,
            "gb_per_second": gigabytes / elapsed,
            "p50_ms": percentile(took, 50) * 1e3,
            "p99_ms": percentile(took, 99) * 1e3,
            "p999_ms": percentile(took, 99.9) * 1e3,
            "units": gigabytes,
            "log_lines": warm + count,
        }

    def _repeat(self, connection: socket.socket, seconds: float, took: list[float]) -> int:
        """How many bodies there were; the last one is not cut short."""
        deadline, count = time.monotonic() + seconds, 0
        while (began := time.monotonic()) < deadline:
            self.carry(connection)
            took.append(time.monotonic() - began)
            count += 1
        return count

    @staticmethod
    def _connected(port: int) -> AbstractContextManager[socket.socket]:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.setblocking(True)  # with deadlines of the kernel: sendfile knows no others
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 10, 0))
        return connection


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of a good answer, in lower case, and what came of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(_MAX_HEAD - len(data))
        data += piece
        if not piece or not data.startswith(b"HTTP/1.1 200"[: len(data)]):
            raise BenchError(f"unexpected answer {data[:60]!r}")
    head, _end, rest = data.partition(b"\r\n\r\n")
    return head.lower(), rest


class Download1M(Bulk):
    """The backend sends a file by sendfile; the client throws it away as it comes."""

    name = "download-1m"
    text = "HTTP downloads of 1 MB, one after the other, GB = 10^9 bytes, {log}"

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options, folder)
        self._buffer = bytearray(_PIECE)
        folder.chmod(0o711)  # nginx reads as nobody
        with open(folder / "body", "wb") as file:
            for _ in range(self.size // MB):
                file.write(bytes(MB))

    def backend(self, port: int) -> Child:
        return Child("backend", serving(self.folder, port, self.options.room), self.folder, LOAD_CORES)

    def probe(self, port: int) -> None:
        with self._connected(port) as connection:
            self.carry(connection)

    def carry(self, connection: socket.socket) -> None:
        connection.sendall(b"GET /body HTTP/1.1\r\nHost: bench.test\r\n\r\n")
        head, rest = _head(connection)
        if b"\r\ncontent-length: %d" % self.size not in head:
            raise BenchError(f"unexpected answer {head!r}")
        left = self.size - len(rest)
        while left:
            count = connection.recv_into(self._buffer, min(left, _PIECE))
            if not count:
                raise BenchError(f"cut short by {left} bytes")
            left -= count


class Download100M(Download1M):
    name = "download-100m"
    text = "HTTP downloads of 100 MB, one after the other, GB = 10^9 bytes, {log}"
    size = 100 * MB


class Upload1M(Bulk):
    """The client sends zeros by sendfile; the sink throws them away and answers when it has all."""

    name = "upload-1m"
    text = "HTTP uploads of 1 MB, one after the other, GB = 10^9 bytes, {log}"

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options, folder)
        self._body = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as this is there
        self._body.write(bytes(MB))
        self._body.flush()

    def backend(self, port: int) -> Child:
        sink = Path(__file__).with_name("sink.py")
        return Child("sink", [sys.executable, str(sink), str(port)], self.folder, LOAD_CORES)

    def probe(self, port: int) -> None:
        with self._connected(port) as connection:
            self.carry(connection)

    def carry(self, connection: socket.socket) -> None:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: bench.test\r\nContent-Length: %d\r\n\r\n" % self.size)
        left = self.size
        while left:
            offset = (self.size - left) % MB
            left -= os.sendfile(connection.fileno(), self._body.fileno(), offset, min(left, MB - offset))
        head, rest = _head(connection)
        if b"\r\ncontent-length: 0" not in head or rest:
            raise BenchError(f"unexpected answer {head!r}")


class Upload100M(Upload1M):
    name = "upload-100m"
    text = "HTTP uploads of 100 MB, one after the other, GB = 10^9 bytes, {log}"
    size = 100 * MB
