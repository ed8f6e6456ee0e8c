r"""Sends one message and expects it back.

``python -m charon.testing.smoke_client --addr localhost:8080 --msg "hello\n"``
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
from collections.abc import Sequence

from charon.testing.listener import parse_address

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[nrt0\\])")


def unescape(text: str) -> bytes:
    r"""The bytes of ``text``, with ``\n \r \t \0 \\ \xHH`` read as in C: a shell passes them on as they were typed.

    ``\xHH`` is that byte; everything else is UTF-8.
    """
    parts, end = [], 0
    for match in ESCAPE.finditer(text):
        word = match[1]
        parts.append(text[end : match.start()].encode())
        parts.append(bytes([int(word[1:], 16)]) if word[0] == "x" else ESCAPES[word].encode())
        end = match.end()
    return b"".join(parts) + text[end:].encode()


def echo_of(address: tuple[str, int], message: bytes, timeout: float) -> bytes:
    """Send ``message`` and return what comes back, at most as many bytes; fewer if the peer closes first.

    ``timeout`` (seconds) bounds the connect and each wait for bytes. Raises OSError (TimeoutError among them).
    """
    received = bytearray()
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(message)
        while len(received) < len(message):
            data = connection.recv(len(message) - len(received))
            if not data:
                break
            received += data
    return bytes(received)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; returns its exit status: 0 when the echo is the message, 1 when not or not reachable."""
    parser = argparse.ArgumentParser(prog="smoke_client", description="Send a message, expect it back.")
    parser.add_argument("--addr", default="localhost:8080", help="HOST:PORT or :PORT (default: %(default)s)")
    parser.add_argument("--msg", default=r"hello-through-proxy\n", help=r"text; \n \r \t \0 \\ \xHH are understood")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for each step (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        address = parse_address(options.addr, default_host="localhost")
    except ValueError as problem:
        parser.error(str(problem))
    message = unescape(options.msg)
    if not message:
        parser.error("--msg is empty: there would be nothing to compare")
    try:
        received = echo_of(address, message, options.timeout)
    except OSError as problem:
        print(f"smoke_client: {options.addr}: {problem}", file=sys.stderr)
        return 1
    if received != message:
        print(f"smoke_client: sent {message!r}, got back {received!r}", file=sys.stderr)
        return 1
    print(f"echo ok: {len(message)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
