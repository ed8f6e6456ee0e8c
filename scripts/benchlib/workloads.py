"""The kinds of work: each has a backend, a probe that tells when work gets through a peer, and a measurement."""

import json
import selectors
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.benchlib.peers import answering
from scripts.benchlib.procs import LOAD_CORES, BenchError, Child

BODY = b"x" * 100
Sample = dict[str, float]


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: int
    connections: int
    streams: int
    idle: int
    access_log: bool

    @property
    def room(self) -> int:
        """Connections, of both sides together, that a peer or backend must be able to hold."""
        return 2 * self.connections + self.idle + 500


@dataclass(frozen=True)
class Column:
    """A figure of every sample; with ``ratio`` the table compares it with the reference peers, with ``over`` each
    peer with the one that has less to do."""

    key: str
    title: str
    digits: int
    ratio: bool = False
    over: bool = False


class Workload:
    """``logged``: every unit of work is a line of the access log. ``peers``: those it applies to."""

    name = ""
    text = ""
    mode = "http"
    logged = False
    peers: tuple[str, ...] = ("charon", "envoy", "nginx", "haproxy")
    columns: tuple[Column, ...] = ()

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        log = "JSON access log to a file" if options.access_log else "no access log"
        self.title = self.text.format(log=log, **vars(options)) + "; one worker"

    def backend(self, port: int) -> Child:
        argv = answering(self.folder, port, BODY.decode(), self.options.room)
        return Child("backend", argv, self.folder, LOAD_CORES)

    def probe(self, port: int) -> None:
        """Return when work gets through ``port``; OSError or BenchError when it does not."""
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            get(connection)

    def measure(self, peer: Child, port: int) -> Sample:
        raise NotImplementedError


def get(connection: socket.socket) -> None:
    """One request and its whole answer."""
    connection.sendall(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n" + BODY):
        data = connection.recv(4096)
        answer += data
        if not data or not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
            raise BenchError(f"unexpected answer {answer[:60]!r}")


class Http(Workload):
    """Small requests by wrk. Its script has no hook per request: it then sends one prepared request, at C speed."""

    name = "http"
    text = "HTTP keep-alive, {connections} connections, 100-byte answers, {log}"
    logged = True
    scheme = "http"
    columns = (
        Column("cpu_us", "CPU µs/request", 1, ratio=True),
        Column("per_second", "requests/s", 0),
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
    )
    script = """done = function(summary, latency)
      local e = summary.errors
      io.write(string.format('REPORT {"requests":%d,"us":%d,"errors":%d,"p50":%g,"p99":%g}', summary.requests,
        summary.duration, e.connect + e.read + e.write + e.timeout + e.status,
        latency:percentile(50), latency:percentile(99)))
    end"""

    def measure(self, peer: Child, port: int) -> Sample:
        warm = self._wrk(port, 1)  # upstream connections, code paths, allocator
        before = peer.cpu_seconds()
        report = self._wrk(port, self.options.seconds)
        cpu = peer.cpu_seconds() - before
        if report["errors"] or not report["requests"]:
            raise BenchError(f"{report['errors']} errors in {report['requests']} requests")
        return {
            "cpu_us": cpu / report["requests"] * 1e6,
            "per_second": report["requests"] / report["us"] * 1e6,
            "p50_ms": report["p50"] / 1e3,
            "p99_ms": report["p99"] / 1e3,
            "units": report["requests"],
            "log_lines": warm["requests"] + report["requests"],
        }

    def _wrk(self, port: int, seconds: int) -> dict[str, float]:
        (self.folder / "wrk.lua").write_text(self.script)
        argv = ["wrk", "-t1", f"-c{self.options.connections}", f"-d{seconds}s", "-s", str(self.folder / "wrk.lua")]
        argv.append(f"{self.scheme}://127.0.0.1:{port}/")
        try:
            ran = subprocess.run(
                [*argv, f"{self.scheme}://127.0.0.1:{port}/"], capture_output=True, text=True, check=False
            )
        except FileNotFoundError as missing:
            raise BenchError("wrk is not installed") from missing
        _before, mark, report = ran.stdout.partition("REPORT ")
        if not mark:
            raise BenchError(f"wrk ended with {ran.returncode}: {(ran.stderr or ran.stdout).strip()[-200:]}")
        figures: dict[str, float] = json.loads(report)
        return figures


class HttpFull(Http):
    """The same requests through routes that are protected, beside the bare ones."""

    name = "http-full"
    text = Http.text + "; -full: rate limit, breaker, health checks, retries"
    peers = ("charon", "charon-full", "envoy", "envoy-full")
    columns = (Column("cpu_us", "CPU µs/request", 1, over=True), *Http.columns[1:])


class HttpRecords(Http):
    """The same requests, counted and logged or not."""

    name = "http-records"
    text = "HTTP keep-alive, {connections} connections, 100-byte answers; what counting and logging a request cost"
    peers = ("charon-uncounted", "charon-counted", "charon-logged")
    columns = HttpFull.columns


class HttpTraced(Http):
    """The same requests with tracing, beside bare ones. The exporter's process counts too."""

    name = "http-traced"
    text = Http.text + "; -traced: 1 % of the requests are sampled, -traced-all: all"
    peers = ("charon", "charon-traced", "charon-traced-all")
    columns = HttpFull.columns


class TcpMessages(Http):
    """The same requests through the TCP proxy: a small message each way."""

    name = "tcp-messages"
    text = "TCP relay of small messages, {connections} connections"
    mode = "tcp"
    logged = False
    columns = (Column("cpu_us", "CPU µs/round trip", 1, ratio=True), *Http.columns[1:])


class TcpBulk(Workload):
    """Bulk through the TCP proxy: the sender only calls sendfile, the receiver only recv."""

    name = "tcp"
    text = "TCP bulk relay, {streams} stream(s) towards the client, GB = 10^9 bytes"
    mode = "tcp"
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


class Memory(Workload):
    name = "memory"
    text = "Memory (PSS of all processes): at rest, and for each of {idle} idle connections that made a request"
    columns = (
        Column("kb_per_connection", "KB/connection", 2, ratio=True),
        Column("base_mb", "base MB", 1, ratio=True),
    )

    def measure(self, peer: Child, port: int) -> Sample:
        base = self._settled_pss(peer)
        with ExitStack() as stack:

            def connect() -> socket.socket:
                return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))

            first = connect()
            for _ in range(200):  # what is allocated once is not a connection's
                get(first)
            before = self._settled_pss(peer)
            for _ in range(self.options.idle):
                get(connect())
            growth = self._settled_pss(peer) - before
        return {"kb_per_connection": growth / self.options.idle, "base_mb": base / 1024}

    @staticmethod
    def _settled_pss(peer: Child) -> float:
        """KB, when two looks half a second apart agree within 0.1 % (or after five seconds)."""
        last = peer.pss_kb()
        for _ in range(10):
            time.sleep(0.5)
            last, previous = peer.pss_kb(), last
            if abs(last - previous) <= previous / 1000:
                break
        return last
