"""Services as this worker sees them: the endpoints of each, which one is next, and what the service can bear."""

from __future__ import annotations

import random
from array import array
from collections.abc import Collection, Iterator, Mapping
from time import monotonic

from gevent.event import Event as Flag

from charon.base.errors import (
    CIRCUIT_OPEN,
    NO_ENDPOINT,
    NO_HEALTHY_ENDPOINT,
    OVERLOADED,
    PENDING_TIMEOUT,
    ExchangeFailed,
)
from charon.config.service_table import unchanged
from charon.config.snapshot import ServiceSpec
from charon.net.tls import ClientTls, Contexts
from charon.policy.balance import Balancer, balancer
from charon.policy.breaker import Admission
from charon.policy.retry import WINDOW_CELLS, Budget, RetryPolicy, Window
from charon.proxy.endpoint import Endpoint
from charon.proxy.sharing import Sharing
from charon.shared.concurrency import ServiceConcurrency
from charon.wire.target import is_host

_LOOK_AGAIN = 0.01
"""Seconds after which a request that waits for room looks again whether another worker has made some."""


class Service:
    """A named set of endpoints. ``policy`` is its retry policy, compiled. ``concurrency`` bounds its requests by their
    latency, None where that is off; ``watches_latency`` says that somebody wants to know how long answers take,
    ``hashes`` that requests have a key that decides."""

    __slots__ = (
        "_balancer",
        "_pending",
        "_room",
        "_sharing",
        "_tls",
        "budget",
        "concurrency",
        "endpoints",
        "hashes",
        "name",
        "policy",
        "spec",
        "watches_latency",
    )

    def __init__(self, spec: ServiceSpec, sharing: Sharing) -> None:
        self.name = spec.name
        self.spec = spec
        self.endpoints: list[Endpoint] = []
        self.policy = RetryPolicy.compile(spec.retry)
        self.budget = _budget(spec, sharing)
        self.concurrency: ServiceConcurrency | None = None
        self.watches_latency = False
        self.hashes = False
        self._sharing = sharing
        self._tls: ClientTls | None = None
        self._balancer: Balancer = balancer(spec.balance, (), random.random)
        self._pending = 0
        self._room = Flag()
        self.apply(spec)

    def __repr__(self) -> str:
        return f"<Service {self.name} endpoints={len(self.endpoints)}{'' if self.spec.known else ' unknown'}>"

    @property
    def known(self) -> bool:
        """Whether the registry holds the name now."""
        return self.spec.known

    @property
    def authority(self) -> bytes:
        """The service's name as a Host, or an empty one where the name cannot be a host's."""
        name = self.name.encode("utf-8")
        return name if is_host(name) else b""

    def apply(self, spec: ServiceSpec) -> None:
        """Follow ``spec``, keeping the endpoints that are there already."""
        before, self.spec = self.spec, spec
        old = [(endpoint, endpoint.spec.weight) for endpoint in self.endpoints]
        present = {endpoint.name: endpoint for endpoint in self.endpoints}
        endpoints = []
        for wanted in spec.endpoints:
            endpoint = present.pop(wanted.name, None)
            if endpoint is not None and (endpoint.spec.candidates, endpoint.spec.host) != (
                wanted.candidates,
                wanted.host,
            ):
                endpoint.leave()  # the same name now means another address
                endpoint = None
            if endpoint is None:
                endpoint = self._sharing.endpoint(self.name, wanted, spec)
            elif endpoint.state is not None:
                endpoint.state.follow(spec.breaker, spec.passive)
            endpoint.spec = wanted
            endpoint.slow_start = spec.balance.slow_start
            endpoint.announce(spec.proxy_header)
            if spec.bulkhead is None and before.bulkhead is not None and endpoint.shared_in_flight is not None:
                endpoint.shared_in_flight.clear()
            endpoints.append(endpoint)
        for gone in present.values():
            gone.leave()
        self._follow_concurrency(spec, before)
        self.endpoints = endpoints
        states = [endpoint.state for endpoint in endpoints if endpoint.state is not None]
        for state in states:
            state.peers = states
        if old != [(endpoint, endpoint.spec.weight) for endpoint in endpoints] or before.balance != spec.balance:
            self._balancer = balancer(spec.balance, endpoints, random.random)
        if before.retry != spec.retry or before.row != spec.row:
            self.policy = RetryPolicy.compile(spec.retry)
            self.budget = _budget(spec, self._sharing)

    def secure(self, contexts: Contexts) -> None:
        """Dial as the spec says, with the context of now. What is open under another one takes no new requests."""
        tls = None if self.spec.tls is None else contexts.client(self.spec.tls)
        if tls is not None or self._tls is not None:
            self._tls = tls
            for endpoint in self.endpoints:
                endpoint.secure(tls)

    def _follow_concurrency(self, spec: ServiceSpec, before: ServiceSpec) -> None:
        wanted = spec.concurrency
        if wanted is None:
            self.concurrency = None
        elif self.concurrency is None or spec.row != before.row:
            self.concurrency = self._sharing.concurrency(spec.row, wanted)
        else:
            self.concurrency.follow(wanted)
        self.watches_latency = wanted is not None or spec.balance.algorithm == "ewma"
        self.hashes = spec.balance.hashes

    def leave(self) -> None:
        """The snapshot no longer names this service."""
        for endpoint in self.endpoints:
            endpoint.leave()

    # -- choosing -----------------------------------------------------------------------------------------------

    def choose(self, tried: Collection[Endpoint], key: int | None = None) -> tuple[Endpoint, bool]:
        """The endpoint for a request, not among ``tried``, and whether the request is its breaker's trial.

        Where requests are bounded the endpoint has been entered, and must be left (:meth:`done`). Raises ExchangeFailed
        when there is none: at once, or after having waited for room.
        """
        bulkhead = self.spec.bulkhead
        if bulkhead is None and len(self.endpoints) == 1 and not tried:
            only = self.endpoints[0]
            if only.plain():  # nearly always: nothing to weigh, nothing to ask
                return only, False
        if bulkhead is None or bulkhead.max_requests_per_endpoint is None:
            return self._choose(tried, key, None)
        deadline = monotonic() + bulkhead.pending_timeout
        while True:
            try:
                return self._choose(tried, key, bulkhead.max_requests_per_endpoint)
            except ExchangeFailed as failure:
                if failure.reason is not OVERLOADED:
                    raise
                left = deadline - monotonic()
                if left <= 0 and bulkhead.max_pending:
                    raise ExchangeFailed(PENDING_TIMEOUT, self.name, retry_after=1.0) from None
                if self._pending >= bulkhead.max_pending:
                    raise
            self._pending += 1
            self._room.clear()
            try:
                self._room.wait(timeout=min(_LOOK_AGAIN, left))
            finally:
                self._pending -= 1

    def done(self, endpoint: Endpoint) -> None:
        """A request that :meth:`choose` let in has ended."""
        if endpoint.shared_in_flight is not None and self.spec.bulkhead is not None:
            endpoint.shared_in_flight.leave()
            if self._pending:
                self._room.set()

    def _choose(self, tried: Collection[Endpoint], key: int | None, limit: int | None) -> tuple[Endpoint, bool]:
        now = monotonic()
        skipped = tried
        full = False
        while True:
            endpoint = self._pick(skipped, now, key)
            if endpoint is None:
                raise self._why_none(now, full)
            admission = endpoint.admit(now)
            if admission and (limit is None or self._enter(endpoint, limit)):
                return endpoint, admission is Admission.TRIAL
            if admission:
                full = True
                if admission is Admission.TRIAL and endpoint.state is not None:
                    endpoint.state.release()
            skipped = [*skipped, endpoint]

    @staticmethod
    def _enter(endpoint: Endpoint, limit: int) -> bool:
        return endpoint.shared_in_flight is None or endpoint.shared_in_flight.enter(limit)

    def _pick(self, skipped: Collection[Endpoint], now: float, key: int | None) -> Endpoint | None:
        """The balancer's choice. Where traffic has set all endpoints aside, all of them are tried."""
        endpoints = self.endpoints
        if len(endpoints) == 1:
            only = endpoints[0]
            return only if only.usable(now, ejected_too=True) and only not in skipped else None
        index = self._balancer.pick(lambda i: endpoints[i].usable(now) and endpoints[i] not in skipped, key)
        if index is None:
            index = self._balancer.pick(
                lambda i: endpoints[i].usable(now, ejected_too=True) and endpoints[i] not in skipped, key
            )
        return None if index is None else endpoints[index]

    def _why_none(self, now: float, full: bool) -> ExchangeFailed:
        if full:
            return ExchangeFailed(OVERLOADED, self.name, retry_after=1.0)
        states = [endpoint.state for endpoint in self.endpoints if endpoint.state is not None]
        waits = [state.retry_after(now) for state in states if not state.is_down() and state.breaker_open(now)]
        if waits:
            return ExchangeFailed(CIRCUIT_OPEN, self.name, retry_after=min(waits))
        if states and all(state.is_down() for state in states):
            return ExchangeFailed(NO_HEALTHY_ENDPOINT, self.name, retry_after=1.0)
        return ExchangeFailed(NO_ENDPOINT, self.name)


def _budget(spec: ServiceSpec, sharing: Sharing) -> Budget:
    windows = sharing.windows(spec.row)
    if windows is None:
        own = Window(memoryview(array("d", bytes(8 * WINDOW_CELLS))))
        return Budget(spec.retry, own, [own])
    return Budget(spec.retry, windows[sharing.slot], windows)


class Services:
    """The services of this worker, by name (names keep their case).

    A service is made when it is first asked for: of tens of thousands a worker uses few, and what it never uses costs
    it nothing but a name, at no time. Once made it stays until a snapshot no longer names it.
    """

    def __init__(self, sharing: Sharing, contexts: Contexts) -> None:
        self._services: dict[str, Service] = {}
        self._contexts = contexts
        self._specs: Mapping[str, ServiceSpec] = {}
        self._own: Mapping[str, ServiceSpec] = {}
        self._sharing = sharing

    def get(self, name: str) -> Service | None:
        """The service, or None when the registry does not hold it."""
        return self._services.get(name) or self._made(name)

    def apply(self, specs: Mapping[str, ServiceSpec], own: Mapping[str, ServiceSpec]) -> None:
        """Follow a snapshot: endpoints are kept by (service, name), what it does not name leaves. ``own`` are services
        beside it, which go before those of the same name."""
        before, self._specs, self._own = self._specs, specs, own
        for name, service in list(self._services.items()):
            if name in own or not unchanged(name, before, specs):
                spec = self._spec(name)
                if spec is None:
                    self._services.pop(name).leave()
                    continue
                if service.spec != spec:
                    service.apply(spec)
            service.secure(self._contexts)

    def _made(self, name: str) -> Service | None:
        spec = self._spec(name)
        if spec is None:
            return None
        service = self._services[name] = Service(spec, self._sharing)
        service.secure(self._contexts)
        return service

    def _spec(self, name: str) -> ServiceSpec | None:
        return self._own.get(name) or self._specs.get(name)

    def __iter__(self) -> Iterator[Service]:
        """Every service that has been used."""
        return iter(self._services.values())

    def endpoints(self) -> Iterator[Endpoint]:
        """Every endpoint of every service that has been used."""
        for service in self._services.values():
            yield from service.endpoints
