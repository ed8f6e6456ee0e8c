"""Every service in one value, as the supervisor holds it and as a worker gets it.

A registry may name 50,000 services, of which one worker uses few. So they travel packed, a few bytes each, and a
service becomes a :class:`ServiceSpec` again when it is first asked for: taking over all of them costs a worker no more
than taking over a few. Which way a service is treated travels once for all that are treated alike.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from charon.config.snapshot import TREATMENT, EndpointSpec, ServiceSpec, SocketAddress, treatment

_Treatment = tuple[Any, ...]
_Packed = tuple[list[_Treatment], dict[str, bytes]]


class ServiceTable(Mapping[str, ServiceSpec]):
    """Services by name, none of which changes. Pickled, it is :class:`PackedServices`; packed once for all readers."""

    __slots__ = ("_packed", "_specs")

    def __init__(self, specs: Mapping[str, ServiceSpec]) -> None:
        self._specs = specs
        self._packed: bytes | None = None

    def __getitem__(self, name: str) -> ServiceSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._packed is None:
            self._packed = pickle.dumps(_pack(self._specs), protocol=pickle.HIGHEST_PROTOCOL)
        return PackedServices.unpack, (self._packed,)


class PackedServices(Mapping[str, ServiceSpec]):
    """The same on the other side: a service is unpacked each time that it is asked for."""

    __slots__ = ("_records", "_treatments")

    def __init__(self, packed: _Packed) -> None:
        self._treatments, self._records = packed

    @classmethod
    def unpack(cls, data: bytes) -> PackedServices:
        """What :meth:`ServiceTable.__reduce__` has packed; it comes from our own supervisor."""
        return cls(pickle.loads(data))  # noqa: S301 - as above

    def __getitem__(self, name: str) -> ServiceSpec:
        number, known, row, endpoints = pickle.loads(self._records[name])  # noqa: S301 - as above
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


def unchanged(name: str, before: Mapping[str, ServiceSpec], after: Mapping[str, ServiceSpec]) -> bool:
    """Whether ``name`` is surely the same in both, as can be told without unpacking either."""
    return isinstance(before, PackedServices) and isinstance(after, PackedServices) and after.same(name, before)


def _pack(specs: Mapping[str, ServiceSpec]) -> _Packed:
    treatments: list[_Treatment] = []
    records: dict[str, bytes] = {}
    number = -1
    last: _Treatment | None = None
    for name, spec in specs.items():
        treated = treatment(spec)
        if treated != last:  # nearly always the very same objects, which takes no look inside
            if treated not in treatments:
                treatments.append(treated)
            number, last = treatments.index(treated), treated
        # As plain tuples: a record that named its classes would be three times as long.
        endpoints = [(name, [tuple(a) for a in addresses], *rest) for name, addresses, *rest in spec.endpoints]
        records[name] = pickle.dumps((number, spec.known, spec.row, endpoints), protocol=pickle.HIGHEST_PROTOCOL)
    return treatments, records
