"""Addresses as the test tools write them (``:9091``, ``localhost:9091``, ``[::1]:9091``), and listening on them."""

from __future__ import annotations

import socket as stdlib_socket

import gevent.socket

BACKLOG = 1024


def parse_address(text: str, default_host: str = "") -> tuple[str, int]:
    """Split ``HOST:PORT`` or ``:PORT``; an IPv6 host stands in brackets. Raises ValueError with a readable text."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address: HOST:PORT or :PORT is needed")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not an address: an IPv6 host needs brackets, as in [::1]:{port}")
    return host or default_host, int(port)


def bound_address(listener: gevent.socket.socket) -> str:
    """Where ``listener`` really listens, as :func:`parse_address` reads it."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int) -> gevent.socket.socket:
    """A listening socket; an empty ``host`` means every interface, IPv6 and IPv4 where the machine has both.

    Port 0 lets the kernel choose. Raises OSError (``gaierror`` for an unknown name) when it cannot be bound.
    """
    if host == "" and stdlib_socket.has_dualstack_ipv6():
        made = stdlib_socket.create_server(
            ("", port), family=stdlib_socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
        )
    else:
        family, _, _, _, address = stdlib_socket.getaddrinfo(
            host or "0.0.0.0",  # noqa: S104 - asked for with an empty host
            port,
            type=stdlib_socket.SOCK_STREAM,
            flags=stdlib_socket.AI_PASSIVE,
        )[0]
        made = stdlib_socket.create_server(address[:2], family=family, backlog=BACKLOG)
    # Accepted connections inherit it: a small chunk must not wait for the acknowledgement of the one before.
    made.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
    return gevent.socket.socket(made.family, made.type, made.proto, fileno=made.detach())
