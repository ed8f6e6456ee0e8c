"""The listening sockets: who has which, and what a reload opens and closes. Owned by the supervisor alone."""

from __future__ import annotations

from _socket import socket as RawSocket
from collections.abc import Iterable

from charon.base.errors import StartError
from charon.config.snapshot import ListenerSpec
from charon.net.listen import bound_address, listen, remove

Sockets = dict[str, list[RawSocket]]


class ListenerSockets:
    """A socket for each worker slot on each address. A listener that keeps its address keeps its sockets, and with them
    every connection that is queued there, also when its name changes."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._by_address: Sockets = {}
        self._addresses: dict[str, str] = {}

    def prepare(self, specs: Iterable[ListenerSpec]) -> Sockets:
        """Open what ``specs`` need and is not open yet. Raises StartError with nothing changed."""
        opened: Sockets = {}
        try:
            for spec in specs:
                key = _key(spec)
                if key not in self._by_address and key not in opened:
                    opened[key] = listen(spec.address, self._slots)
        except StartError:
            close_all(opened)
            raise
        return opened

    def adopt(self, specs: Iterable[ListenerSpec], opened: Sockets) -> Sockets:
        """Take over what :meth:`prepare` has opened for ``specs``. Returns what is not needed any more."""
        self._addresses = {spec.name: _key(spec) for spec in specs}
        everything = self._by_address | opened
        needed = set(self._addresses.values())
        self._by_address = {key: sockets for key, sockets in everything.items() if key in needed}
        return {key: sockets for key, sockets in everything.items() if key not in needed}

    def descriptors(self, slot: int, names: Iterable[str] | None = None) -> dict[str, int]:
        """The descriptors of one slot, by listener; of ``names`` only if they are given."""
        wanted = self._addresses if names is None else names
        return {name: self._by_address[self._addresses[name]][slot].fileno() for name in wanted}

    def address(self, name: str) -> str:
        """The address that a listener is really bound to; empty once it is closed."""
        sockets = self._by_address.get(self._addresses.get(name, ""))
        return bound_address(sockets[0]) if sockets else ""

    def close(self) -> None:
        """Close everything."""
        close_all(self._by_address)
        self._by_address = {}


def _key(spec: ListenerSpec) -> str:
    # Any free port is a different one for every listener.
    return f"{spec.name} {spec.address}" if spec.address.endswith(":0") else spec.address


def close_all(sockets: Sockets) -> None:
    """Close for good: what :meth:`ListenerSockets.adopt` gave back, once no worker uses it any more."""
    for group in sockets.values():
        for sock in group:
            remove(sock)
