"""A name server on loopback that answers, is silent, fails, or cuts its answers off, as a test tells it."""

from __future__ import annotations

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
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._udp.getsockname()
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._tcp.bind(self.address)
        self._tcp.listen(16)
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
            answer: Callable[[bytes], object] = lambda data, peer=peer: self._udp.sendto(data, peer)  # noqa: E731
            self._greenlets.append(self._spawn("test-dns-answer", self._answer, wire, "udp", answer))

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            with connection:
                (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
                wire = connection.recv(length, socket.MSG_WAITALL)
                self._answer(wire, "tcp", lambda data: connection.sendall(struct.pack("!H", len(data)) + data))

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
