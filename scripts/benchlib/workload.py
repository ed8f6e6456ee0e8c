"""A kind of work: it has a backend, a probe that tells when work gets through a peer, and a measurement."""

import socket
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.benchlib.figures import Column, Sample
from scripts.benchlib.nginx import answering
from scripts.benchlib.procs import LOAD_CORES, BenchError, Child

BODY = b"x" * 100
REQUEST = b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n"


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


class Workload:
    """``logged``: every unit of work is a line of the access log. ``bulk``: it is about bytes, not messages.
    ``access_log`` is None where the command line decides. ``peers``: those it applies to. ``references``: those that
    the others are compared with. A sample takes ``lengths`` times the seconds of a measurement, and ``overhead_s``
    besides."""

    name = ""
    text = ""
    mode = "http"
    logged = False
    bulk = False
    access_log: bool | None = None
    peers: tuple[str, ...] = ("charon", "envoy", "nginx", "haproxy")
    references: tuple[str, ...] = ("envoy", "nginx")
    workers = "one worker"
    columns: tuple[Column, ...] = ()
    lengths, overhead_s = 1, 2.0

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options if self.access_log is None else replace(options, access_log=self.access_log)
        self.folder = folder
        self.title = self.titled(options)

    @classmethod
    def titled(cls, options: Options) -> str:
        logging = options.access_log if cls.access_log is None else cls.access_log
        log = "JSON access log to a file" if logging else "no access log"
        return f"{cls.text.format(log=log, **vars(options))}; {cls.workers}"

    @classmethod
    def seconds(cls, options: Options, peers: int) -> float:
        """About how long it takes."""
        return options.rounds * peers * (cls.lengths * options.seconds + cls.overhead_s)

    def backend(self, port: int) -> Child:
        argv = answering(self.folder, port, BODY.decode(), self.options.room)
        return Child("backend", argv, self.folder, LOAD_CORES)

    def probe(self, port: int) -> None:
        """Return when work gets through ``port``; OSError or BenchError when it does not."""
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            get(connection)

    def measure(self, peer: Child, port: int) -> Sample:
        raise NotImplementedError


def get(connection: socket.socket, request: bytes = REQUEST) -> None:
    """One request and its whole answer."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"\r\n\r\n" + BODY):
        data = connection.recv(4096)
        answer += data
        if not data or answer[9:12] != b"200"[: len(answer[9:])]:
            raise BenchError(f"unexpected answer {answer[:60]!r}")
