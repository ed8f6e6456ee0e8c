"""All sources and the resolver joined: what services there are now, and where each of their endpoints is.

Two changes in quick succession are one callback. A service that did not change keeps its very tuple of endpoints, so
that a change of one name in a registry of 50,000 costs little.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence

import gevent
from gevent import Greenlet
from gevent.event import Event as Flag
from gevent.lock import BoundedSemaphore

from charon.base.addresses import Address
from charon.base.names import Event
from charon.config.registry import Target
from charon.config.snapshot import EndpointSpec, SocketAddress
from charon.discovery.dns import Resolver
from charon.discovery.lookup import Addresses
from charon.discovery.source import EventLog, Services, Source, Spawn

Found = dict[str, tuple[EndpointSpec, ...]]
"""The endpoints of each service, as they are known now."""

COALESCE = 0.05
"""Seconds that a change waits for others, so that a burst is one callback."""

YIELD_EVERY = 500
"""Services built between two turns of the event loop."""


class Directory:
    """The services of all sources. Where two sources hold one name, the earlier source has it.

    ``on_change`` runs in the directory's greenlet when :meth:`services` has changed. How a service is treated (load
    balancing and so on) belongs to the configuration.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        resolver: Resolver,
        on_change: Callable[[], None],
        log: EventLog,
        spawn: Spawn,
        *,
        start_timeout: float = 2.0,
    ) -> None:
        self._sources = tuple(sources)
        self._resolver = resolver
        self._on_change = on_change
        self._log = log
        self._spawn = spawn
        self._start_timeout = start_timeout
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._found: Found = {}
        self._users: dict[str, set[str]] = {}  # which services use a name that is resolved
        self._named: dict[str, set[str]] = {}  # the other way round: services with such names, and these
        self._sources_changed = False
        self._changed_names: set[str] = set()
        self._wake = Flag()
        self._building = BoundedSemaphore(1)
        self._greenlet: Greenlet[..., object] | None = None

    def __repr__(self) -> str:
        return f"<Directory sources={len(self._sources)} services={len(self._found)}>"

    def services(self) -> Found:
        """Every service by name, complete; a new mapping after each change, never changed once handed out."""
        return self._found

    def start(self) -> None:
        """Load all sources and resolve all names; then follow them.

        Names that take longer than ``start_timeout`` seconds (all are asked at once) are left behind: their services
        are there with no endpoint, and a change brings the endpoints.
        """
        self._resolver.start(self._name_changed)
        for source in self._sources:
            source.start(self._source_changed)
        stale = self._adopt_targets()
        self._resolver.wait(self._start_timeout)
        self._update(stale)
        self._greenlet = self._spawn("directory", self._follow)

    def stop(self) -> None:
        """End all watching. The services stay readable."""
        for source in self._sources:
            source.stop()
        self._resolver.stop()
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def refresh(self, service: str) -> None:
        """A connection to the service failed: ask again for its names (at most once per second each)."""
        for target in self._targets.get(service, ()):
            if _needs_resolver(target):
                self._resolver.refresh(_key(target))

    def _source_changed(self) -> None:
        self._sources_changed = True
        self._wake.set()

    def _name_changed(self, name: str) -> None:
        self._changed_names.add(name)
        self._wake.set()

    def _follow(self) -> None:
        while True:
            self._wake.wait()
            gevent.sleep(COALESCE)
            self._wake.clear()
            try:
                if self._update():
                    self._on_change()
            except Exception as error:  # noqa: BLE001 - told, and the next change must still be followed
                text = f"{type(error).__name__}: {error}"
                self._log.event("error", Event.INTERNAL_ERROR, where=repr(self), error=text)

    def _update(self, stale: Iterable[str] = ()) -> bool:
        """Bring the services up to date, ``stale`` ones in any case; says whether any differ from before."""
        with self._building:
            names, self._changed_names = self._changed_names, set()
            rebuild = {*stale, *(service for name in names for service in self._users.get(name, ()))}
            if self._sources_changed:
                self._sources_changed = False
                rebuild |= self._adopt_targets()
            found: Found = {}
            built = 0
            for name in self._targets:
                if name in self._found and name not in rebuild:
                    found[name] = self._found[name]
                    continue
                found[name] = self._build(name)
                built += 1
                if built % YIELD_EVERY == 0:
                    gevent.sleep(0)
            changed = found != self._found
            if changed:
                self._found = found
            return changed

    def _adopt_targets(self) -> set[str]:
        """Take over what the sources hold now; the names of services that are new or differ."""
        before, self._targets = self._targets, _merged(source.services() for source in self._sources)
        stale = {name for name, targets in self._targets.items() if before.get(name) != targets}
        for service in [name for name in self._named if name in stale or name not in self._targets]:
            for key in self._named.pop(service):
                self._users[key].discard(service)
                if not self._users[key]:
                    del self._users[key]
        for service in stale:
            names = {_key(target) for target in self._targets[service] if _needs_resolver(target)}
            if names:
                self._named[service] = names
                for key in names:
                    self._users.setdefault(key, set()).add(service)
        self._resolver.watch(self._users)
        return stale

    def _build(self, service: str) -> tuple[EndpointSpec, ...]:
        targets = self._targets[service]
        if service not in self._named:
            return _without_twins([_literal(target) for target in targets])
        found: list[EndpointSpec] = []
        pending = False
        for target in targets:
            found += endpoints(target, self._resolver.answer(_key(target)))
            pending = pending or self._resolver.is_pending(_key(target))
        if pending and not found and service in self._found:
            return self._found[service]  # A service that moves to a new name stays where it is until that is asked.
        return _without_twins(found)


def endpoints(target: Target, answer: Addresses | None) -> list[EndpointSpec]:
    """The endpoints of one target. ``answer`` is what its name resolves to; None for a literal, or not resolved yet.

    A name with at most one address of each family is one endpoint, named as it is written, tried over IPv4 first. A
    name with more is one endpoint an address: the IPv4 ones, or the IPv6 ones where there are no others.
    """
    if not _needs_resolver(target):
        return [_literal(target)]
    if answer is None:
        return []
    name, port, ipv4, ipv6 = target.address.host, target.address.port, answer.ipv4 or (), answer.ipv6 or ()
    if len(ipv4) <= 1 and len(ipv6) <= 1:
        candidates = tuple(SocketAddress(ip, port) for ip in ipv4 + ipv6)
        places = {str(target.address): candidates} if candidates else {}
    else:
        places = {str(Address(ip, port)): (SocketAddress(ip, port),) for ip in ipv4 or ipv6}
    return [EndpointSpec(label, where, target.weight, host=name, https=target.tls) for label, where in places.items()]


def _literal(target: Target) -> EndpointSpec:
    address = target.address
    where = (SocketAddress(address.host, address.port),)
    return EndpointSpec(str(address), where, target.weight, https=target.tls)


def _without_twins(found: list[EndpointSpec]) -> tuple[EndpointSpec, ...]:
    """Endpoints in the same place are one, with all their weight, under the first one's name."""
    if len(found) < 2:
        return tuple(found)
    merged: dict[tuple[SocketAddress, ...], EndpointSpec] = {}
    for endpoint in found:
        twin = merged.get(endpoint.candidates)
        if twin is not None:
            endpoint = twin._replace(weight=twin.weight + endpoint.weight)
        merged[endpoint.candidates] = endpoint
    return tuple(merged.values())


def _needs_resolver(target: Target) -> bool:
    """Whether the host is a name. Asked of every address of a large registry: so no parsing in Python here."""
    host = target.address.host
    if target.address.is_unix or ":" in host:  # Whoever wrote the address checked that colons make it an IPv6 one.
        return False
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return True
    return False


def _key(target: Target) -> str:
    """Names are resolved without regard to case (RFC 4343)."""
    return target.address.host.lower()


def _merged(all_services: Iterable[Services]) -> dict[str, tuple[Target, ...]]:
    merged: dict[str, tuple[Target, ...]] = {}
    for services in all_services:
        for name, targets in services.items():
            merged.setdefault(name, targets)
    return merged
