"""Work for TCP proxies: small messages both ways, and bulk one way."""

import selectors
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from scripts.benchlib.figures import Column, Sample
from scripts.benchlib.http_workloads import Http
from scripts.benchlib.procs import LOAD_CORES, BenchError, Child
from scripts.benchlib.workload import Workload


class TcpMessages(Http):
    """The requests of ``http`` through the TCP proxy: a small message each way."""

    name = "tcp-messages"
    text = "TCP relay of small messages, {connections} connections"
    mode = "tcp"
    logged = False
    columns = (Column("cpu_us", "CPU µs/round trip", 1, ratio=True), *Http.columns[1:])


class TcpBulk(Workload):
    """Bulk through the TCP proxy: the sender only calls sendfile, the receiver only recv."""

    name = "tcp"
    bulk = True
    text = "TCP bulk relay, {streams} stream(s) towards the client, GB = 10^9 bytes"
    mode = "tcp"
    references: tuple[str, ...] = ("envoy", "nginx", "haproxy")
    columns = (Column("cpu_s_per_gb", "CPU s/GB", 3, ratio=True), Column("gb_per_second", "GB/s", 2))

    def backend(self, port: int) -> Child:
        sender = Path(__file__).with_name("sender.py")
        return Child("sender", [sys.executable, str(sender), str(port)], self.folder, LOAD_CORES)

    def probe(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            if not connection.recv(1):
                raise BenchError("closed without a byte")

    def measure(self, peer: Child, port: int) -> Sample:
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            for _ in range(self.options.streams):
                stream = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                selector.register(stream, selectors.EVENT_READ, stream)
            self._receive(selector, 1)  # warm: windows and buffers grow
            before, began = peer.cpu_seconds(), time.monotonic()
            gigabytes = self._receive(selector, self.options.seconds) / 1e9
            cpu, took = peer.cpu_seconds() - before, time.monotonic() - began
        return {"cpu_s_per_gb": cpu / gigabytes, "gb_per_second": gigabytes / took, "units": gigabytes}

    @staticmethod
    def _receive(selector: selectors.BaseSelector, seconds: int) -> int:
        """Bytes that arrive on all streams in ``seconds``."""
        buffer = bytearray(1 << 20)
        deadline = time.monotonic() + seconds
        total = 0
        while time.monotonic() < deadline:
            counts = [key.data.recv_into(buffer) for key, _events in selector.select(5)]
            if not counts or 0 in counts:
                raise BenchError("a stream ended" if counts else "no byte for 5 s")
            total += sum(counts)
        return total
