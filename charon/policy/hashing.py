"""Consistent hashing: stable keys, and the ring that gives each key its endpoint.

Nothing here depends on the process: every worker and every restart agrees on where a key belongs.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import Final

KEY_SPAN: Final = 1 << 64
"""Keys and points are whole numbers from 0 up to, not including, this."""

POINTS_PER_WEIGHT: Final = 160
"""Points of an endpoint of weight 1; with so many, equal endpoints' shares differ by about 8 % (1/sqrt(160))."""

_HEAVIEST: Final = 4  # times POINTS_PER_WEIGHT, so that weights like 1000 do not make a ring of a million points
_PER_DIGEST: Final = struct.Struct(">8Q")


def hash_key(value: bytes) -> int:
    """``value`` as a key: 64 evenly spread bits (BLAKE2b, RFC 7693), equal in every process."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big")


class Ring:
    """Consistent hashing with virtual nodes.

    Karger et al., "Consistent Hashing and Random Trees" (1997), with several points for each endpoint in proportion to
    its weight, as libketama has them. A key belongs to the first point above it. When an endpoint leaves, its keys go
    to the endpoints whose points come next, and no other key moves; likewise while it is not usable.

    An endpoint's points depend on its name and weight only. Weights above 4 are scaled down for all by the same power
    of two, so keys of others can move when the largest weight of the service crosses such a power.
    """

    __slots__ = ("_count", "_owners", "_points", "_rng")

    def __init__(self, names: Sequence[str], weights: Sequence[float], rng: Callable[[], float]) -> None:
        scale = 1.0
        while weights and max(weights) > _HEAVIEST * scale:
            scale *= 2.0
        owner_of: dict[int, int] = {}
        for index, (name, weight) in enumerate(zip(names, weights, strict=True)):
            count = max(1, round(POINTS_PER_WEIGHT * weight / scale))
            owner_of.update(zip(_points(name, count), repeat(index)))
        self._points = array("Q", sorted(owner_of))
        self._owners = array("I", [owner_of[point] for point in self._points])
        self._owners.extend(self._owners[:1])  # above the last point the ring begins again
        self._count = len(names)
        self._rng = rng

    def pick(self, usable: Callable[[int], bool], key: int | None = None) -> int | None:
        """The endpoint of ``key``, or the next usable one after it. Without a key: a random place on the ring."""
        if not self._count:
            return None
        place = bisect_right(self._points, int(self._rng() * KEY_SPAN) if key is None else key)
        owner = self._owners[place]
        return owner if usable(owner) else self._walk(place, usable)

    def _walk(self, place: int, usable: Callable[[int], bool]) -> int | None:
        # Asked once for each endpoint, not once for each of its points.
        good = {index for index in range(self._count) if usable(index)}
        if not good:
            return None
        owners = self._owners
        while owners[place] not in good:
            place = place + 1 if place + 1 < len(owners) else 0
        return owners[place]


def _points(name: str, count: int) -> list[int]:
    """The first ``count`` points of ``name``; a smaller count gives the beginning of the same list."""
    seed = name.encode("utf-8")
    points: list[int] = []
    while len(points) < count:
        digest = blake2b(seed, salt=(len(points) // 8).to_bytes(8, "big")).digest()
        points += _PER_DIGEST.unpack(digest)
    return points[:count]
