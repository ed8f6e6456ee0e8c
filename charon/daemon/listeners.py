"""The listening sockets: who has which, and what a reload opens and closes. Owned by the supervisor alone."""

from __future__ import annotations

from _socket import socket as RawSocket
from collections.abc import Iterable
from dataclasses import dataclass

from charon.base.errors import StartError
from charon.config.snapshot import ListenerSpec
from charon.daemon.inheritance import Inheritance
from charon.net.listen import accept_all_destinations, bound_address, listen, remove, widen

Sockets = dict[str, list[RawSocket]]


@dataclass(frozen=True, slots=True)
class Share:
    """One listening socket as a worker gets it. ``home`` is the slot that it is for, ``of`` how many ways a listener's
    connections are divided: by sockets, or by slots that share them."""

    listener: str
    home: int
    of: int
    fd: int


class ListenerSockets:
    """A socket for each worker slot on each address. A listener that keeps its address keeps its sockets, and with them
    every connection that is queued there, also when its name changes. ``inheritance`` holds those that an earlier
    program or the service manager has handed on; they are used before any is opened."""

    def __init__(self, slots: int, inheritance: Inheritance | None = None) -> None:
        self._slots = slots
        self._inheritance = inheritance or Inheritance()
        self._by_address: Sockets = {}
        self._addresses: dict[str, str] = {}

    def prepare(self, specs: Iterable[ListenerSpec]) -> Sockets:
        """Open what ``specs`` need and is not open yet. Raises StartError with nothing changed."""
        opened: Sockets = {}
        try:
            for spec in specs:
                key = _key(spec)
                if key not in self._by_address and key not in opened:
                    opened[key] = self._open(spec, key)
        except StartError:
            close_all(opened)
            raise
        return opened

    def _open(self, spec: ListenerSpec, key: str) -> list[RawSocket]:
        found = self._inheritance.take(key, spec.address)
        return widen(found, self._slots) if found else listen(spec.address, self._slots)

    def adopt(self, specs: Iterable[ListenerSpec], opened: Sockets) -> Sockets:
        """Take over what :meth:`prepare` has opened for ``specs``. Returns what is not needed any more.

        Raises StartError where a listener is to be transparent, and this process may not do that.
        """
        specs = tuple(specs)
        self._addresses = {spec.name: _key(spec) for spec in specs}
        everything = self._by_address | opened
        needed = set(self._addresses.values())
        for spec in specs:
            if spec.transparent:
                for sock in everything[_key(spec)]:
                    accept_all_destinations(sock)
        self._by_address = {key: sockets for key, sockets in everything.items() if key in needed}
        return {key: sockets for key, sockets in everything.items() if key not in needed}

    @property
    def open(self) -> Sockets:
        """All sockets, by a key that a later program of the same configuration finds them by."""
        return self._by_address

    def shares(self, slot: int, names: Iterable[str] | None = None) -> list[Share]:
        """What one slot listens on; of ``names`` only if they are given.

        Where there are more sockets than slots (an earlier program had more of them), none is left out: somebody may be
        queued there. Where there are fewer, slots share.
        """
        found: list[Share] = []
        for name in self._addresses if names is None else names:
            sockets = self._by_address[self._addresses[name]]
            of = max(len(sockets), self._slots)
            mine = sockets[slot :: self._slots] or [sockets[slot % len(sockets)]]
            found.extend(Share(name, slot, of, sock.fileno()) for sock in mine)
        return found

    def address(self, name: str) -> str:
        """The address that a listener is really bound to; empty once it is closed."""
        sockets = self._by_address.get(self._addresses.get(name, ""))
        return bound_address(sockets[0]) if sockets else ""

    def addresses(self) -> dict[str, str]:
        """Where every listener is really bound, by its name."""
        return {name: self.address(name) for name in self._addresses}

    def close(self, *, for_good: bool = True) -> None:
        """Close everything; files of Unix sockets are only removed when it is ``for_good``: nobody else has a copy."""
        close_all(self._by_address, for_good=for_good)
        self._by_address = {}


def _key(spec: ListenerSpec) -> str:
    # Any free port is a different one for every listener.
    return f"{spec.name} {spec.address}" if spec.address.endswith(":0") else spec.address


def close_all(sockets: Sockets, *, for_good: bool = True) -> None:
    """Close what :meth:`ListenerSockets.adopt` gave back, once no worker uses it any more."""
    for group in sockets.values():
        for sock in group:
            if for_good:
                remove(sock)
            else:
                sock.close()
