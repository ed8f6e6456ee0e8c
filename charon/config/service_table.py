"""Every service in one value, as the supervisor holds it and as a worker gets it.

A registry may name 50,000 services, of which one worker uses few. So they travel packed, a few bytes each, and a
service becomes a :class:`ServiceSpec` again when it is first asked for: taking over all of them costs a worker hardly
more than taking over a few. Which way a service is treated travels once for all that are treated alike. A worker that
has a snapshot already is told only of services that differ.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from charon.config.snapshot import TREATMENT, EndpointSpec, ServiceSpec, Snapshot, SocketAddress, treatment

_Treatment = tuple[Any, ...]


class ServiceTable(Mapping[str, ServiceSpec]):
    """Services by name, none of which changes. Pickled, it is :class:`PackedServices`.

    ``before`` is the table in whose place this one comes: what is the very same object there was packed already.
    """

    __slots__ = ("_records", "_specs", "_treatments")

    def __init__(self, specs: Mapping[str, ServiceSpec], before: Mapping[str, ServiceSpec] | None = None) -> None:
        self._specs = specs
        self._treatments: list[_Treatment] = []
        self._records: dict[str, bytes] = {}
        self._pack(before if isinstance(before, ServiceTable) else None)

    def __getitem__(self, name: str) -> ServiceSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedServices, (self._treatments, self._records)

    def _pack(self, before: ServiceTable | None) -> None:
        old = before._specs if before is not None else {}
        if before is not None and any(old.get(name) is spec for name, spec in self._specs.items()):
            self._treatments += before._treatments  # which the records taken over name by number
        records, treatments = self._records, self._treatments
        number = -1
        last: _Treatment | None = None
        for name, spec in self._specs.items():
            if before is not None and old.get(name) is spec:
                records[name] = before._records[name]
                continue
            treated = treatment(spec)
            if treated != last:  # nearly always the very same objects, which takes no look inside
                if treated not in treatments:
                    treatments.append(treated)
                number, last = treatments.index(treated), treated
            # As plain tuples: a record that named its classes would be three times as long.
            endpoints = [(name, [tuple(a) for a in addresses], *rest) for name, addresses, *rest in spec.endpoints]
            records[name] = pickle.dumps((number, spec.known, spec.row, endpoints), protocol=pickle.HIGHEST_PROTOCOL)


class PackedServices(Mapping[str, ServiceSpec]):
    """The same on the other side: a service is unpacked each time that it is asked for."""

    __slots__ = ("_records", "_treatments")

    def __init__(self, treatments: list[_Treatment], records: dict[str, bytes]) -> None:
        self._treatments = treatments
        self._records = records

    def __getitem__(self, name: str) -> ServiceSpec:
        number, known, row, endpoints = pickle.loads(self._records[name])  # noqa: S301 - from our own supervisor
        found = tuple(
            EndpointSpec(name, tuple(SocketAddress(*address) for address in addresses), *rest)
            for name, addresses, *rest in endpoints
        )
        treated = dict(zip(TREATMENT, self._treatments[number], strict=True))
        return ServiceSpec(name=name, endpoints=found, known=known, row=row, **treated)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def same(self, name: str, other: PackedServices) -> bool:
        """Whether ``other`` has ``name`` in the very same form; nothing is unpacked."""
        record = self._records.get(name)
        return record is not None and record == other._records.get(name) and self._treatments == other._treatments

    def with_changes(
        self, treatments: list[_Treatment], records: Mapping[str, bytes], gone: Iterable[str]
    ) -> PackedServices:
        """These services without those that have ``gone``, and with ``records`` that are new or differ."""
        found = {**self._records, **records}
        for name in gone:
            del found[name]
        return PackedServices(treatments, found)


@dataclass(frozen=True, slots=True)
class SnapshotUpdate:
    """A snapshot for one who has got another one before: of its services, only those that differ.

    ``snapshot`` is without services; ``records`` are those that are new or differ, ``gone`` names that are not there
    any more.
    """

    snapshot: Snapshot
    treatments: list[_Treatment]
    records: dict[str, bytes]
    gone: list[str]

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot) -> SnapshotUpdate | Snapshot:
        """What one who has ``before`` has to be told to have ``after``."""
        old, new = before.services, after.services
        if not isinstance(old, ServiceTable) or not isinstance(new, ServiceTable):
            return after
        known, wanted = old._records, new._records
        if old._treatments != new._treatments[: len(old._treatments)]:
            return after  # what is known by number means something else
        records = {name: record for name, record in wanted.items() if known.get(name) != record}
        gone = [name for name in known if name not in wanted]
        return cls(replace(after, services={}), new._treatments, records, gone)

    def over(self, services: Mapping[str, ServiceSpec]) -> Snapshot:
        """The whole snapshot, given the ``services`` of the one before. Raises TypeError when they are not packed."""
        if not isinstance(services, PackedServices):
            raise TypeError("an update came before any snapshot")
        return replace(self.snapshot, services=services.with_changes(self.treatments, self.records, self.gone))


def unchanged(name: str, before: Mapping[str, ServiceSpec], after: Mapping[str, ServiceSpec]) -> bool:
    """Whether ``name`` is surely the same in both, as can be told without unpacking either."""
    return isinstance(before, PackedServices) and isinstance(after, PackedServices) and after.same(name, before)
