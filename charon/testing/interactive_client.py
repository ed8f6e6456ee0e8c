"""Type, and see what comes back: ``python -m charon.testing.interactive_client --addr localhost:8080``."""

from __future__ import annotations

import argparse
import select
import socket
import sys
from collections.abc import Sequence
from typing import BinaryIO

from charon.testing.listener import parse_address

RECEIVE_BYTES = 65_536


def converse(connection: socket.SocketType, source: BinaryIO, sink: BinaryIO) -> bool:
    """Copy ``source`` to the peer and the peer to ``sink`` until the peer closes.

    The end of ``source`` ends our side only, so that the rest of the echo still arrives. Returns whether ``source``
    had ended by then: False means that the peer closed first.
    Raises OSError when the connection breaks.
    """
    connection.setblocking(False)
    typing, pending = True, b""
    while True:
        # No more is read while bytes wait to be sent; an echo is always read, or both sides would wait for ever.
        sources: list[socket.SocketType | BinaryIO] = [connection, source] if typing and not pending else [connection]
        readable, writable, _ = select.select(sources, [connection] if pending else [], [])
        if connection in readable:
            data = connection.recv(RECEIVE_BYTES)
            if not data:
                return not typing
            sink.write(data)
            sink.flush()
        if writable:
            pending = pending[connection.send(pending) :]
        if source in readable:
            # One read of the descriptor: a line in a terminal, what is there in a pipe.
            pending = source.read(RECEIVE_BYTES)
            if not pending:
                typing = False
                connection.shutdown(socket.SHUT_WR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns its exit status: 0, or 1 when the peer cannot be reached or closes first."""
    parser = argparse.ArgumentParser(prog="interactive_client", description="Type, and see what comes back.")
    parser.add_argument("--addr", default="localhost:8080", help="HOST:PORT or :PORT (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        address = parse_address(options.addr, default_host="localhost")
    except ValueError as problem:
        parser.error(str(problem))
    try:
        with (
            socket.create_connection(address, timeout=5.0) as connection,
            open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as source,
        ):
            print(f"connected to {options.addr}; type lines, end with Ctrl-D", file=sys.stderr)
            if not converse(connection, source, sys.stdout.buffer):
                print("interactive_client: the other side closed the connection", file=sys.stderr)
                return 1
    except OSError as problem:
        print(f"interactive_client: {options.addr}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
