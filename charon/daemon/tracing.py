"""The supervisor's side of tracing: the socket that workers hand spans over through, and the process that exports them.

The socket lives as long as the supervisor. So workers and exporters come and go without knowing of each other, and
what nobody takes is bounded by the kernel. The exporter takes orders from its standard input, whose end tells it to
stop, and reports on its standard output; see :mod:`charon.daemon.span_exporter`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from time import monotonic
from typing import IO, Any

import gevent
import orjson
from gevent.event import Event as Flag

from charon import __version__
from charon.base.names import Event, Metric
from charon.config.settings import ExportSpec
from charon.net.tasks import spawn
from charon.telemetry.events import EventLog
from charon.telemetry.exposition import Totals

STOP_SECONDS = 2.0
"""What an exporter may take, from the order to stop on, to get rid of what it has; a little more than it takes."""

FAILURE_SECONDS = 10.0
"""How often the log says that a collector does not take spans."""

MAX_BACKOFF = 10.0


class SpanExport:
    """Keeps an exporter running while there is somebody to export to. Workers write to ``fd``."""

    def __init__(self, totals: Totals, events: EventLog, instance: str) -> None:
        self._totals = totals
        self._events = events
        self._instance = instance
        # Datagrams: what several workers write stays apart. Kept open here, so that neither end ever breaks.
        self._receiver, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._exporter: _Exporter | None = None
        self._spec: ExportSpec | None = None
        self._failing: set[str] = set()
        self._told: dict[str, float] = {}

    @property
    def fd(self) -> int:
        return self._sender.fileno()

    def follow(self, spec: ExportSpec | None) -> None:
        """Export to what ``spec`` says from now on; what the last exporter still has goes where it was to go."""
        if spec == self._spec:
            return
        self._spec = spec
        if self._exporter is not None:
            self._exporter.stop()
            self._exporter = None
        if spec is not None:
            order = asdict(spec) | {"version": __version__, "instance": self._instance}
            self._exporter = _Exporter(orjson.dumps(order) + b"\n", self._receiver.fileno(), self._hear, self._died)

    def stop(self, hurry: Flag) -> None:
        """Let the exporter get rid of what it has, for at most STOP_SECONDS, or until ``hurry`` is set."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.stop()
            gevent.wait([exporter.ended, hurry], timeout=STOP_SECONDS, count=1)
            exporter.kill()
        self._sender.close()
        self._receiver.close()

    def _hear(self, report: dict[str, Any]) -> None:
        """Take over what one sender of the exporter has counted since its last report."""
        name = str(report["exporter"])
        if report["exported"]:
            self._totals.count(Metric.TRACE_SPANS_EXPORTED, (name,), report["exported"])
        for reason, count in report["dropped"].items():
            self._totals.count(Metric.TRACE_SPANS_DROPPED, (reason,), count)
        if report["error"]:
            self._failing.add(name)
            now = monotonic()
            if now - self._told.get(name, -FAILURE_SECONDS) >= FAILURE_SECONDS:
                self._told[name] = now
                self._events.warning(Event.TRACING_EXPORT_FAILED, exporter=name, error=report["error"])
        elif report["exported"] and name in self._failing:
            self._failing.discard(name)
            self._told.pop(name, None)
            self._events.info(Event.TRACING_EXPORT_RECOVERED, exporter=name)

    def _died(self, pid: int, code: int) -> None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._events.error(Event.TRACING_EXPORTER_DIED, pid=pid, how=how)


class _Exporter:
    """One exporter: a process, and another one when it dies, until :meth:`stop`.

    ``order`` is the line that it is given. ``hear`` is told its reports, ``died`` the number and the exit code of one
    that has ended unasked.
    """

    def __init__(
        self, order: bytes, fd: int, hear: Callable[[dict[str, Any]], None], died: Callable[[int, int], None]
    ) -> None:
        self.ended = Flag()
        self._order = order
        self._fd = os.dup(fd)
        self._hear = hear
        self._died = died
        self._stopping = Flag()
        self._process: subprocess.Popen[bytes] | None = None
        spawn("span exporter", self._keep)

    def stop(self) -> None:
        """End it once it is rid of what it has."""
        self._stopping.set()
        self._close_orders()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _keep(self) -> None:
        backoff = 0.1
        while not self._stopping.is_set():
            began = monotonic()
            self._run_once()
            backoff = 0.1 if monotonic() - began > MAX_BACKOFF else min(backoff * 2, MAX_BACKOFF)
            self._stopping.wait(timeout=backoff)
        os.close(self._fd)
        self.ended.set()

    def _run_once(self) -> None:
        command = [sys.executable, "-P", "-m", "charon.daemon.span_exporter", str(self._fd)]
        process = subprocess.Popen(  # noqa: S603 - ourselves
            command, pass_fds=[self._fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(self._order)
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died already, which is told below
        if self._stopping.is_set():
            self._close_orders()
        self._read(process.stdout)
        code = process.wait()
        process.stdout.close()
        self._close_orders()
        if code != 0 and not self._stopping.is_set():
            self._died(process.pid, code)

    def _read(self, reports: IO[bytes]) -> None:
        for line in reports:
            self._hear(orjson.loads(line))

    def _close_orders(self) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # it is gone


def environment() -> dict[str, str]:
    """What the exporter finds in its environment: not what its libraries would let overrule the configuration."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and not name.lower().endswith("_proxy")
    }
