"""Services on their way to a worker: packed, and each unpacked as it was."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from charon.config.service_table import PackedServices, ServiceTable, unchanged
from charon.config.snapshot import BalanceSpec, BreakerSpec, EndpointSpec, ServiceSpec, SocketAddress


def service(name: str, *addresses: str, **settings: object) -> ServiceSpec:
    found = [EndpointSpec(f"{host}:80", (SocketAddress(host, 80),), 2, row) for row, host in enumerate(addresses)]
    return ServiceSpec(name, tuple(found), row=7, **settings)  # type: ignore[arg-type]


def sent(*services: ServiceSpec) -> Mapping[str, ServiceSpec]:
    table: Mapping[str, ServiceSpec] = pickle.loads(pickle.dumps(ServiceTable({spec.name: spec for spec in services})))
    assert isinstance(table, PackedServices)
    return table


def test_every_service_arrives_as_it_was() -> None:
    services = [
        service("plain", "10.0.0.1", "fd00::1"),
        service("none"),
        service("hashed", "10.0.0.2", balance=BalanceSpec("ring_hash", "path"), breaker=BreakerSpec(9)),
        service("gone", known=False),
        service("like the first", "10.0.0.3"),
    ]
    found = sent(*services)
    assert dict(found) == {spec.name: spec for spec in services}
    assert isinstance(found["plain"].endpoints[0].candidates[0], SocketAddress)
    assert ("plain" in found, "other" in found, found.get("other"), len(found)) == (True, False, None, 5)


def test_what_has_not_changed_is_known_without_unpacking() -> None:
    before = sent(service("a", "10.0.0.1"), service("b", "10.0.0.2"))
    moved = sent(service("a", "10.0.0.1"), service("b", "10.0.0.9"), service("c", "10.0.0.2"))
    assert [name for name in "abc" if unchanged(name, before, moved)] == ["a"]
    treated = sent(service("a", "10.0.0.1", breaker=BreakerSpec(1)), service("b", "10.0.0.2", breaker=BreakerSpec(1)))
    assert not any(unchanged(name, before, treated) for name in "abx")


def test_large_tables_are_short_on_the_way() -> None:
    few = [service(f"s{number}", f"10.0.{number >> 8}.{number & 255}", breaker=BreakerSpec()) for number in range(1000)]
    assert len(pickle.dumps(ServiceTable({spec.name: spec for spec in few}))) < 1000 * 150
