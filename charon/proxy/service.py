"""Services as this worker sees them: the endpoints of each, and which one is next."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from charon.config.snapshot import ServiceSpec
from charon.policy.balance import RoundRobin
from charon.proxy.endpoint import Endpoint
from charon.telemetry.metrics import WorkerMetrics
from charon.wire.target import is_host


class Service:
    """A named set of endpoints."""

    __slots__ = ("_balancer", "_metrics", "_weights", "endpoints", "known", "name")

    def __init__(self, name: str, metrics: WorkerMetrics) -> None:
        self.name = name
        self._metrics = metrics
        self.known = True
        self.endpoints: list[Endpoint] = []
        self._weights: list[int] = []
        self._balancer = RoundRobin(())

    def __repr__(self) -> str:
        return f"<Service {self.name} endpoints={len(self.endpoints)}{'' if self.known else ' unknown'}>"

    def apply(self, spec: ServiceSpec) -> None:
        """Take over the endpoints of ``spec``, keeping those that are there already."""
        present = {endpoint.name: endpoint for endpoint in self.endpoints}
        endpoints = []
        for wanted in spec.endpoints:
            endpoint = present.pop(wanted.name, None)
            if endpoint is not None and endpoint.spec.candidates != wanted.candidates:
                endpoint.leave()  # the same name now means another address
                endpoint = None
            if endpoint is None:
                endpoint = Endpoint(self.name, wanted, self._metrics.upstream(self.name, wanted.name))
            endpoint.spec = wanted
            endpoints.append(endpoint)
        for gone in present.values():
            gone.leave()
        weights = [endpoint.spec.weight for endpoint in endpoints]
        if [endpoint.name for endpoint in endpoints] != [e.name for e in self.endpoints] or weights != self._weights:
            self._balancer = RoundRobin(weights)
            self._weights = weights
        self.endpoints = endpoints
        self.known = spec.known

    @property
    def authority(self) -> bytes:
        """The service's name as a Host, or an empty one where the name cannot be a host's."""
        name = self.name.encode("utf-8")
        return name if is_host(name) else b""

    def leave(self) -> None:
        """The snapshot no longer names this service."""
        for endpoint in self.endpoints:
            endpoint.leave()
        self.endpoints = []
        self.known = False
        self._balancer = RoundRobin(())

    def pick(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The next available endpoint that is not among ``tried``, or None."""
        endpoints = self.endpoints
        if len(endpoints) == 1:
            only = endpoints[0]
            return only if only not in tried and only.available() else None
        index = self._balancer.pick(lambda i: endpoints[i] not in tried and endpoints[i].available())
        return None if index is None else endpoints[index]


class Services:
    """All services of this worker, by name (names keep their case)."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._services: dict[str, Service] = {}
        self._metrics = metrics

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    def get(self, name: str) -> Service | None:
        return self._services.get(name)

    def apply(self, specs: Mapping[str, ServiceSpec]) -> None:
        """Follow a snapshot: new services come, endpoints are kept by (service, name), the rest leaves."""
        for name in [name for name in self._services if name not in specs]:
            self._services.pop(name).leave()
        for name, spec in specs.items():
            service = self._services.get(name)
            if service is None:
                service = self._services[name] = Service(name, self._metrics)
            service.apply(spec)

    def endpoints(self) -> Iterator[Endpoint]:
        """Every endpoint of every service."""
        for service in self._services.values():
            yield from service.endpoints
