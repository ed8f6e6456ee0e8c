"""The process that exports spans: ``python -m charon.daemon.span_exporter FD``, started by the supervisor.

It reads datagrams of spans from FD, and sends them to the collectors that the first line of its standard input names.
Whatever a collector does, neither the supervisor nor a worker waits for it, and neither holds the libraries that speak
to it. It writes what it has counted to its standard output, a line of JSON for each collector that there is news of.
When its standard input ends it gets rid of what it has, for a short time, and ends.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from collections import Counter
from time import monotonic
from typing import Any, Final

import orjson

from charon.config.settings import ExportSpec
from charon.daemon.span_formats import LastWords, Origin, senders
from charon.daemon.span_sender import SpanSender
from charon.telemetry.spans import DropReason, Span, decode

STOP_SECONDS: Final = 1.8
"""How long what is left may take; a little less than the supervisor waits."""

REPORT_SECONDS: Final = 1.0
_DATAGRAM: Final = 1 << 18
_IN_A_ROW: Final = 64


class Exporter:
    """Spans from ``fd`` to ``ways``, until ``orders`` end. ``reports`` is a descriptor too."""

    def __init__(self, fd: int, orders: int, reports: int, ways: list[SpanSender]) -> None:
        self._fd = fd
        self._orders = orders
        self._reports = reports
        self._ways = ways
        self._malformed = 0

    def run(self) -> None:
        """Until the orders end, and then until all is sent or the time for that is up."""
        for way in self._ways:
            way.start()
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.register(self._orders, select.POLLIN | select.POLLHUP)
        due = monotonic() + REPORT_SECONDS
        going_on = True
        while going_on:
            ready = poller.poll(max(0.0, due - monotonic()) * 1000)
            if any(fd == self._fd for fd, _ in ready):
                self._take()
            going_on = not any(fd == self._orders for fd, _ in ready) or bool(os.read(self._orders, 4096))
            if monotonic() >= due:
                due = monotonic() + REPORT_SECONDS
                self._report()
        cutoff = monotonic() + STOP_SECONDS
        while self._take():
            pass
        for way in self._ways:
            way.stop()
        for way in self._ways:
            way.join(cutoff - monotonic())
        self._report()

    def _take(self) -> int:
        """Take in what has come. Returns how many datagrams that was, at most a few, as there is more to do."""
        spans: list[Span] = []
        count = 0
        while count < _IN_A_ROW:
            try:
                datagram = os.read(self._fd, _DATAGRAM)
            except BlockingIOError:
                break
            count += 1
            for line in datagram.splitlines():
                try:
                    spans.append(decode(line))
                except ValueError:
                    self._malformed += 1
        if spans:
            for way in self._ways:
                way.put(spans)
        return count

    def _report(self) -> None:
        for way in self._ways:
            counts = way.take_counts()
            dropped = counts.dropped
            if self._malformed:
                dropped += Counter({DropReason.MALFORMED: self._malformed})
                self._malformed = 0
            if counts.exported or dropped or counts.error:
                report = {
                    "exporter": way.name,
                    "exported": counts.exported,
                    "dropped": dict(dropped),
                    "error": counts.error,
                }
                _write(self._reports, orjson.dumps(report) + b"\n")


def _write(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        pass  # the supervisor is gone, which the end of the orders says too: nobody is left to tell


def _read_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)  # no more than the line: the end of what follows is an order
        if not byte:
            break
        line += byte
    return line


def _end(failure: threading.ExceptHookArgs) -> None:
    """A thread that fails for a reason nobody thought of ends the process: the supervisor tells, and starts another."""
    threading.__excepthook__(failure)
    os._exit(1)


def main() -> None:
    """Export until told to stop."""
    threading.excepthook = _end
    # The supervisor says when to stop; a terminal's Ctrl-C reaches the whole process group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    orders, reports = sys.stdin.fileno(), sys.stdout.fileno()
    line = _read_line(orders)
    if not line:
        return
    order: dict[str, Any] = orjson.loads(line)
    version, instance = order.pop("version"), order.pop("instance")
    order["otlp_headers"] = tuple((name, value) for name, value in order["otlp_headers"])
    spec = ExportSpec(**order)
    words = LastWords()
    logging.getLogger().handlers[:] = [words]
    origin = Origin.of(spec.service_name, version, instance)
    ways = [SpanSender(name, send) for name, send in senders(spec, origin, words).items()]
    Exporter(int(sys.argv[1]), orders, reports, ways).run()
    os._exit(0)  # a sender that still waits for its collector is not waited for


if __name__ == "__main__":
    main()
