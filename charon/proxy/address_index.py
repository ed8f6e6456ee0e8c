"""Which service is at an address: kept only where connections come by their original destination."""

from __future__ import annotations

from collections.abc import Mapping
from socket import AF_INET6, inet_ntop, inet_pton

from charon.config.service_table import unchanged
from charon.config.snapshot import ServiceSpec

Destination = tuple[str, int]
"""An IP literal as the kernel writes it, and a port."""


class AddressIndex:
    """Services by the addresses of their endpoints. Follows snapshots by what has changed in them."""

    def __init__(self) -> None:
        self._services: Mapping[str, ServiceSpec] = {}
        self._addresses: dict[str, list[Destination]] = {}
        self._names: dict[Destination, list[str]] = {}

    def __repr__(self) -> str:
        return f"<AddressIndex services={len(self._addresses)} addresses={len(self._names)}>"

    def apply(self, services: Mapping[str, ServiceSpec]) -> None:
        """Know ``services`` from now on, and no others."""
        before, self._services = self._services, services
        for name in [name for name in self._addresses if name not in services]:
            self._forget(name)
        for name in services:
            if not unchanged(name, before, services):
                self._forget(name)
                self._learn(name, services[name])

    def find(self, destination: Destination) -> str | None:
        """The service at an address; of several the one that has been there longest. None: no service."""
        names = self._names.get(destination)
        return None if names is None else names[0]

    def _forget(self, name: str) -> None:
        for destination in self._addresses.pop(name, ()):
            names = self._names[destination]
            names.remove(name)
            if not names:
                del self._names[destination]

    def _learn(self, name: str, spec: ServiceSpec) -> None:
        addresses = {
            (_canonical(address.host), address.port)
            for endpoint in spec.endpoints
            for address in endpoint.candidates
            if not address.is_unix
        }
        if addresses:
            self._addresses[name] = list(addresses)
            for destination in addresses:
                self._names.setdefault(destination, []).append(name)


def _canonical(host: str) -> str:
    """An IPv6 address as the kernel's are written; there is only one way to write an IPv4 one."""
    return inet_ntop(AF_INET6, inet_pton(AF_INET6, host)) if ":" in host and "%" not in host else host
