"""A TCP server that sends back what it receives: ``python -m charon.testing.echo_server --port 9091``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import gevent.socket
from gevent.server import StreamServer

from charon.testing.listener import listen
from charon.testing.program import serve_until_stopped

RECEIVE_BYTES = 65_536


class EchoServer(StreamServer):
    """Echoes on every connection until the peer ends its side, then ends its own (so half-close can be tested).

    As a library: ``server = EchoServer("127.0.0.1", 0); server.start(); server.server_port; server.stop()``.
    Raises OSError when the address cannot be bound.
    """

    def __init__(self, host: str, port: int) -> None:
        listener = listen(host, port)
        super().__init__(listener, _echo)
        self.address = listener.getsockname()


def _echo(connection: gevent.socket.socket, _peer: object) -> None:
    try:
        while data := connection.recv(RECEIVE_BYTES):
            connection.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        return  # the peer left without reading; nothing is owed to it
    finally:
        connection.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="echo_server", description="TCP server that sends back what it receives.")
    parser.add_argument("--port", type=int, default=9091, help="port; 0 lets the kernel choose (default: %(default)s)")
    parser.add_argument("--host", default="", help="address or name to listen on (default: every interface)")
    options = parser.parse_args(arguments)
    return serve_until_stopped(lambda: EchoServer(options.host, options.port))


if __name__ == "__main__":
    sys.exit(main())
