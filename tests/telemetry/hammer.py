"""A process that logs as fast as it can: WRITER COUNT [PATH]. Exit status 0 when it dropped nothing."""

from __future__ import annotations

import json
import sys
import time

import gevent

from charon.telemetry.sink import LogSink


class HurriedClock:
    """A hundred seconds pass in one, so that the sink looks after its path every 10 ms."""

    def monotonic(self) -> float:
        return time.monotonic() * 100

    def wall(self) -> float:
        return time.time()


def main() -> int:
    writer, count = int(sys.argv[1]), int(sys.argv[2])
    sink = LogSink(sys.argv[3] if len(sys.argv) > 3 else None, clock=HurriedClock())
    for number in range(count):
        line = {"writer": writer, "number": number, "fill": "x" * (number * 37 % 900)}
        sink.write(json.dumps(line).encode() + b"\n")
        if number % 20 == 0:
            gevent.sleep(0)
        if number % 53 == 0:
            sink.flush()
    sink.close(wait=3000)
    return 1 if sink.dropped or sink.errors else 0


if __name__ == "__main__":
    sys.exit(main())
