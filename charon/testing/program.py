"""What the test servers share as programs: say where they listen, serve, and stop cleanly when told."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import gevent
from gevent.server import StreamServer

from charon.testing.listener import bound_address

STOP_TIMEOUT = 1.0  # seconds that open connections may finish in


def serve_until_stopped(make: Callable[[], StreamServer]) -> int:
    """Run the server that ``make`` gives until SIGINT or SIGTERM. Returns the exit status: 0, or 3 if it cannot listen.

    The first line on standard output is ``listening on HOST:PORT``, with the port really bound.
    """
    try:
        server = make()
        server.start()
    except OSError as problem:
        print(f"cannot listen: {problem}", file=sys.stderr)
        return 3
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, server.stop, STOP_TIMEOUT)
    print(f"listening on {bound_address(server.socket)}", flush=True)
    server.serve_forever()
    return 0
