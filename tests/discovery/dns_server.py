"""A name server on loopback that answers, is silent, fails, or cuts its answers off, as a test tells it."""

from __future__ import annotations

import errno
import functools
import socket
import struct
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import gevent
from gevent import Greenlet
from gevent.event import Event as Flag

from charon.discovery.source import Spawn

Records = dict[tuple[str, str], tuple[int, list[str]]]


class DnsServer:
    """``zone[name, type] = (ttl, addresses)``, names with their final dot. A name without records does not exist.

    ``silent``, ``broken`` (SERVFAIL) and ``truncated`` (over UDP) hold names; ``held`` holds names whose answers wait
    for ``release``. ``asked`` is every question seen: (name, type, protocol).
    """

    def __init__(self, spawn: Spawn) -> None:
        self.zone: Records = {}
        self.silent: set[str] = set()
        self.silent_types: set[str] = set()
        self.broken: set[str] = set()
        self.truncated: set[str] = set()
        self.held: set[str] = set()
        self.release = Flag()
        self.asked: list[tuple[str, str, str]] = []
        self._spawn = spawn
        self._tcp, self._udp = _one_port()
        self.address: tuple[str, int] = self._udp.getsockname()
        self._greenlets: list[Greenlet[..., Any]] = [
            spawn("test-dns-udp", self._serve_udp),
            spawn("test-dns-tcp", self._serve_tcp),
        ]

    def stop(self) -> None:
        gevent.killall(self._greenlets)
        self._udp.close()
        self._tcp.close()

    def put(self, name: str, *addresses: str, ttl: int = 60) -> None:
        """Replace all records of ``name``; no addresses: the name exists and has none."""
        for kind, sign in (("A", "."), ("AAAA", ":")):
            self.zone[name, kind] = (ttl, [address for address in addresses if sign in address])

    def remove(self, name: str) -> None:
        for kind in ("A", "AAAA"):
            del self.zone[name, kind]

    def count(self, name: str, kind: str = "A", protocol: str = "udp") -> int:
        return self.asked.count((name, kind, protocol))

    def _serve_udp(self) -> None:
        while True:
            wire, peer = self._udp.recvfrom(4096)
            answer = functools.partial(self._send_to, peer)
            self._greenlets.append(self._spawn("test-dns-answer", self._answer, wire, "udp", answer))

    def _send_to(self, peer: tuple[str, int], wire: bytes) -> None:
        self._udp.sendto(wire, peer)

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            with connection, connection.makefile("rb") as stream:
                (length,) = struct.unpack("!H", stream.read(2))
                answer = functools.partial(_send_framed, connection)
                self._answer(stream.read(length), "tcp", answer)

    def _answer(self, wire: bytes, protocol: str, send: Callable[[bytes], object]) -> None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, protocol))
        if name in self.held:
            self.release.wait()
        if name in self.silent or kind in self.silent_types:
            return
        response = dns.message.make_response(query)
        if name in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif (name, kind) not in self.zone:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif name in self.truncated and protocol == "udp":
            response.flags |= dns.flags.TC
        else:
            ttl, addresses = self.zone[name, kind]
            if addresses:
                response.answer.append(dns.rrset.from_text_list(question.name, ttl, "IN", kind, addresses))
        send(response.to_wire())


def _send_framed(connection: socket.socket, wire: bytes) -> None:
    """Over TCP two bytes of length come first (RFC 1035 section 4.2.2)."""
    connection.sendall(struct.pack("!H", len(wire)) + wire)


def _one_port() -> tuple[socket.socket, socket.socket]:
    """A TCP and a UDP socket on the same free port: what is free for the one may be taken for the other."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError as error:
            tcp.close()
            udp.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return tcp, udp
