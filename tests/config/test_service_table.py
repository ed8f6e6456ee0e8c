"""Services on their way to a worker: packed, and each unpacked as it was."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import pairwise

import pytest

from charon.config.service_table import PackedServices, ServiceTable, SnapshotUpdate, unchanged
from charon.config.snapshot import BalanceSpec, BreakerSpec, EndpointSpec, ServiceSpec, Snapshot, SocketAddress


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


def snapshots(*generations: list[ServiceSpec]) -> list[Snapshot]:
    """Snapshots as the supervisor makes them one after the other."""
    made: list[Snapshot] = []
    for number, services in enumerate(generations, 1):
        before = made[-1].services if made else None
        made.append(Snapshot(number, (), ServiceTable({spec.name: spec for spec in services}, before)))
    return made


def test_an_update_makes_the_last_snapshot_the_next_and_holds_only_what_differs() -> None:
    a, b, c = service("a", "10.0.0.1"), service("b", "10.0.0.2"), service("c", "10.0.0.3")
    moved, strict = service("b", "10.0.0.9"), service("d", "10.0.0.4", breaker=BreakerSpec(1))
    made = snapshots([a, b, c], [a, moved, c], [a, moved, strict], [strict])
    known = pickle.loads(pickle.dumps(made[0])).services
    for before, after in pairwise(made):
        update = pickle.loads(pickle.dumps(SnapshotUpdate.between(before, after)))
        assert isinstance(update, SnapshotUpdate)
        snapshot = update.over(known)
        known = snapshot.services
        assert (snapshot.generation, dict(known)) == (after.generation, dict(after.services))
    first = SnapshotUpdate.between(made[0], made[1])
    assert isinstance(first, SnapshotUpdate)
    assert (list(first.records), first.gone) == (["b"], [])


def test_a_snapshot_is_sent_whole_where_services_are_treated_otherwise() -> None:
    before, after = snapshots([service("a", "10.0.0.1")], [service("a", "10.0.0.1", breaker=BreakerSpec(1))])
    assert SnapshotUpdate.between(before, after) is after


def test_an_update_without_a_snapshot_before_it_is_refused() -> None:
    before, after = snapshots([service("a")], [service("a", "10.0.0.1")])
    update = SnapshotUpdate.between(before, after)
    assert isinstance(update, SnapshotUpdate)
    with pytest.raises(TypeError, match="before any snapshot"):
        update.over({})
