from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from time import monotonic

from scripts.faultlib.fault import Size, fault, milliseconds, percentile
from scripts.faultlib.load import Answer, Stream
from scripts.faultlib.stage import Stage, listener, service
from tests.harness.charon import CharonProcess, total

_RATE = 500
_DROPPED = "charon_log_lines_dropped_total"


@fault(
    "log-stuck",
    setup=f"GET at {_RATE}/s in an open loop; the log, a line of a kilobyte a request, goes to a pipe that is read.",
    wrong="For the middle third of the time nobody reads the pipe, and again when Charon is stopped.",
    passes="The p99 of requests stays as it is, within 10 % and 2 ms; every request is a line that is read, or counted "
    "as dropped; stopping takes at most 2 s more than it would.",
    short=Size(seconds=15),
    full=Size(seconds=180),
)
def log_stuck(stage: Stage) -> None:
    backend = stage.backend()
    pipe = stage.folder() / "log"
    os.mkfifo(pipe)
    reader = _Reader(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    config = {
        "logging": {"file": str(pipe)},
        "services": service("app", backend.address),
        "listeners": [listener("app")],
    }
    charon = CharonProcess(stage.folder(), config, workers=stage.workers)
    ending = stage.enter(ExitStack())
    ending.callback(charon.end)
    charon.start(wait=False)
    port = charon.port_when_ready()
    stage.enter(reader)  # from here on somebody writes, until Charon has ended
    long = "/" + "x" * 900
    third = stage.size.seconds / 3
    load = stage.load(Stream("get", port, _RATE, 3 * third, path=long))
    load.wait_until(third)
    reader.pause()
    load.wait_until(2 * third)
    reader.go_on()
    answers = load.answers()
    cutoffs = (load.began + third, load.began + 2 * third)
    before = _p99(answer for answer in answers if answer.due < cutoffs[0])
    during = _p99(answer for answer in answers if cutoffs[0] <= answer.due < cutoffs[1])
    stage.tell("p99 while it is read", milliseconds(before))
    stage.check("p99 while it is stuck", milliseconds(during), "+10 % + 2 ms", during <= before * 1.1 + 0.002)
    good = sum(1 for answer in answers if answer.status == 200)
    stage.check("answered with 200", good, f"{len(answers)}", good == len(answers))
    dropped = int(total(charon.metrics(), _DROPPED))
    lines = reader.wait_for(len(answers) - dropped)
    stage.check(
        "lines read, dropped", f"{lines}, {dropped}", f"{len(answers)} together", lines + dropped == len(answers)
    )
    reader.pause()
    more = stage.load(Stream("more", port, _RATE, 1, path=long))  # more than a pipe holds
    unanswered = sum(1 for answer in more.answers() if answer.status != 200)
    stage.check("not answered before the stop", unanswered, "0", unanswered == 0)
    began = monotonic()
    code = charon.stop()
    took = monotonic() - began
    stage.check("stopped while stuck after", f"{took:.1f} s, exit {code}", "< 3 s, exit 0", took < 3 and code == 0)


def _p99(answers: Iterable[Answer]) -> float:
    return percentile([answer.latency for answer in answers], 99)


class _Reader:
    """Reads a pipe in a thread, and counts the access lines in it, unless it is told to pause."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, True)
        self._fd = fd
        self._going = threading.Event()
        self._going.set()
        self._changed = threading.Condition()
        self._lines = 0
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self._thread.join(10)
        os.close(self._fd)

    def pause(self) -> None:
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def wait_for(self, count: int) -> int:
        """How many lines there were, once there are ``count``, or ten seconds later."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines >= count, 10)
            return self._lines

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._fd, 65_536):
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            with self._changed:
                self._lines += sum(1 for line in lines if b'"message":"http_request"' in line)
                self._changed.notify_all()
            self._going.wait()
