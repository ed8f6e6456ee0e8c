"""Choosing among endpoints: pure functions over weights and a predicate.

``usable(index)`` says whether an endpoint may be chosen now. Every function returns an index, or None when no
endpoint is usable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class RoundRobin:
    """Smooth weighted round robin: each pick goes to the endpoint that is furthest behind its share.

    The method is the one of nginx (commit 52327e0, 2012): every usable endpoint gains its weight, the one with the
    most credit is chosen and pays the total. With equal weights it is plain round robin, done by a counter.
    """

    __slots__ = ("_credit", "_equal", "_next", "_weights")

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = tuple(weights)
        self._equal = len(set(weights)) <= 1
        self._credit = [0] * len(weights)
        self._next = 0

    def pick(self, usable: Callable[[int], bool]) -> int | None:
        """The next endpoint's index."""
        return self._pick_equal(usable) if self._equal else self._pick_weighted(usable)

    def _pick_equal(self, usable: Callable[[int], bool]) -> int | None:
        count = len(self._weights)
        for step in range(count):
            index = (self._next + step) % count
            if usable(index):
                self._next = index + 1
                return index
        return None

    def _pick_weighted(self, usable: Callable[[int], bool]) -> int | None:
        best = None
        total = 0
        credit = self._credit
        for index, weight in enumerate(self._weights):
            if not usable(index):
                continue
            credit[index] += weight
            total += weight
            if best is None or credit[index] > credit[best]:
                best = index
        if best is not None:
            credit[best] -= total
        return best
