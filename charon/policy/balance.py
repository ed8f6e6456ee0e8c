"""Choosing among the endpoints of a service.

Every balancer has one method, ``pick(usable, key)``: ``usable(index)`` says whether an endpoint may be chosen now, and
the answer is an index for which it said yes, or None when it says no for all. Chance is an argument too: ``rng()``
gives a number from 0 up to, not including, 1.

The effective weight of an endpoint is its configured weight times its slow-start factor.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate
from math import exp
from typing import Final, Protocol

from charon.policy.hashing import Ring

Usable = Callable[[int], bool]


class Member(Protocol):
    """What a balancer reads of an endpoint.

    ``weight`` is the configured one, above 0. ``ramp`` is the slow-start factor (:func:`slow_start_factor`).
    ``latency`` is the peak EWMA in seconds (:func:`observe_latency`), 0 before the first observation.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def in_flight(self) -> int: ...

    @property
    def latency(self) -> float: ...

    @property
    def ramp(self) -> float: ...


class BalanceSettings(Protocol):
    """How a service is balanced; ``slow_start`` is in seconds, 0 for none."""

    @property
    def algorithm(self) -> str: ...

    @property
    def slow_start(self) -> float: ...


class Balancer(Protocol):
    """Chooses an endpoint; ``key`` (:func:`charon.policy.hashing.hash_key`) is read by ring_hash only."""

    def pick(self, usable: Usable, key: int | None = None) -> int | None: ...


def balancer(settings: BalanceSettings, members: Sequence[Member], rng: Callable[[], float]) -> Balancer:
    """The balancer for ``members``; to be built anew when their names, order or weights change.

    Raises ValueError for an unknown algorithm and for a weight that is not above 0.
    """
    weights = [member.weight for member in members]
    if not all(weight > 0 for weight in weights):
        raise ValueError("an endpoint's weight must be above 0")
    ramped = settings.slow_start > 0
    match settings.algorithm:
        case "round_robin":
            # Workers begin in different places, so that a quiet service's first endpoint is not everybody's first.
            start = int(rng() * len(members))
            return RoundRobin(weights, members if ramped else None, start)
        case "least_request":
            return LeastRequest(members, rng, ramped)
        case "random":
            return Random(members, rng, ramped)
        case "ewma":
            return PeakEwma(members, rng, ramped)
        case "ring_hash":
            # No slow start here: a key that moved away for a while and back again would lose what the ring is for.
            return Ring([member.name for member in members], weights, rng)
    raise ValueError(f"{settings.algorithm} is not a way of balancing")


class RoundRobin:
    """Smooth weighted round robin; with equal weights and no slow start it is a plain counter.

    Stride scheduling (Waldspurger and Weihl, 1995): an endpoint is due again one stride, 1/weight, after its last
    turn, and the one that is due first has the next. The first turns are spread over the stride, so that endpoints of
    one weight do not come in bursts. Integer weights are met exactly in every round of as many picks as their sum.
    An endpoint that is not usable lets its turns pass and does not make up for them later.
    """

    __slots__ = ("_count", "_due", "_members", "_next", "_strides")

    def __init__(self, weights: Sequence[float], members: Sequence[Member] | None = None, start: int = 0) -> None:
        """``members`` are given where slow start is on; ``start`` is the place in the order to begin with."""
        count = len(weights)
        self._count = count
        self._members = members
        self._next = start
        self._strides = [1.0 / weight for weight in weights]
        self._due: list[tuple[float, int]] | None = None
        if members is not None or len(set(weights)) > 1:
            self._due = [
                (stride * ((index - start) % count + 0.5) / count, index) for index, stride in enumerate(self._strides)
            ]
            heapify(self._due)

    def pick(self, usable: Usable, key: int | None = None) -> int | None:
        """The next endpoint's index."""
        if self._due is not None:
            return self._pick_due(usable, self._due)
        count = self._count
        index = self._next
        for _ in range(count):
            if index >= count:
                index = 0
            if usable(index):
                self._next = index + 1
                return index
            index += 1
        return None

    def _pick_due(self, usable: Usable, due: list[tuple[float, int]]) -> int | None:
        passed: list[tuple[float, int]] = []
        chosen = None
        now = 0.0
        while due:
            now, index = due[0]
            if usable(index):
                heapreplace(due, (now + self._stride(index), index))
                chosen = index
                break
            passed.append(heappop(due))
        for time, index in passed:
            if chosen is not None:
                time = max(time + self._strides[index], now)
            heappush(due, (time, index))
        return chosen

    def _stride(self, index: int) -> float:
        if self._members is None:
            return self._strides[index]
        return self._strides[index] / self._members[index].ramp


class Random:
    """An endpoint by chance, in proportion to effective weight."""

    __slots__ = ("_bounds", "_count", "_draws", "_members", "_ramped", "_rng", "_total")

    def __init__(self, members: Sequence[Member], rng: Callable[[], float], ramped: bool = False) -> None:
        """``ramped``: slow start is on, so the members' ``ramp`` is to be read."""
        weights = [member.weight for member in members]
        self._members = tuple(members)
        self._count = len(members)
        self._rng = rng
        self._ramped = ramped
        self._bounds = list(accumulate(weights)) if len(set(weights)) > 1 else None
        self._total = sum(weights)
        # Drawing until an endpoint fits is quick while most of them do.
        self._draws = range(4 if len(members) > 1 else 0)

    def pick(self, usable: Usable, key: int | None = None) -> int | None:
        """A random endpoint's index."""
        return self._draw(usable, -1)

    def _draw(self, usable: Usable, other: int) -> int | None:
        """A usable endpoint besides ``other``."""
        rng = self._rng
        bounds = self._bounds
        for _ in self._draws:
            index = int(rng() * self._count) if bounds is None else bisect_right(bounds, rng() * self._total)
            if index != other and usable(index) and (not self._ramped or rng() < self._members[index].ramp):
                return index
        return self._draw_among([i for i in range(self._count) if i != other and usable(i)])

    def _draw_among(self, usable: list[int]) -> int | None:
        if not usable:
            return None
        members = self._members
        bounds = list(accumulate(members[i].weight * members[i].ramp for i in usable))
        return usable[bisect_right(bounds, self._rng() * bounds[-1])]


class _TwoChoices(Random):
    """The better of two drawn in proportion to effective weight.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001): nearly as good as comparing all, and
    many proxies that look at the same moment do not all run to the same endpoint. Equally good: the first drawn.
    """

    __slots__ = ()

    def pick(self, usable: Usable, key: int | None = None) -> int | None:
        """The index of the better of two."""
        first = self._draw(usable, -1)
        if first is None:
            return None
        if self._count == 2:
            second: int | None = 1 - first
            if not usable(1 - first):
                return first
        else:
            second = self._draw(usable, first)
        if second is None or self._cost(self._members[first]) <= self._cost(self._members[second]):
            return first
        return second

    def _cost(self, member: Member) -> float:
        raise NotImplementedError


class LeastRequest(_TwoChoices):
    """The one with fewer requests in flight for its effective weight.

    Idle endpoints cost nothing whatever their weight, so a quiet service is balanced by the draw, in proportion.
    """

    __slots__ = ()

    def _cost(self, member: Member) -> float:
        return member.in_flight / (member.weight * member.ramp)


_UNKNOWN: Final = 1e-6  # seconds; no answer comes so soon, so nothing is known, or nothing any more
_PENALTY: Final = 1e3  # seconds; more than any latency


class PeakEwma(_TwoChoices):
    """The one that promises the shorter wait: latency times the requests that would be in flight.

    Peak EWMA as in Twitter's Finagle. An endpoint of which nothing is known gets one request, and no second one
    before the first was answered, unless all are unknown.
    """

    __slots__ = ()

    def _cost(self, member: Member) -> float:
        latency = member.latency
        if latency < _UNKNOWN:
            latency = _PENALTY if member.in_flight else 0.0
        return latency * (member.in_flight + 1) / (member.weight * member.ramp)


def observe_latency(previous: float, sample: float, elapsed_since_last: float, tau: float) -> float:
    """The peak EWMA after a request that took ``sample``; all in seconds.

    A slower sample counts at once and whole, a faster one by how long ago the last was: after ``tau`` it has 63 % of
    the say. With ``sample`` 0 the value fades, which an endpoint that gets no requests needs: one slow answer would
    otherwise keep it away for ever.
    """
    if sample >= previous:
        return sample
    keep = exp(-max(elapsed_since_last, 0.0) / tau)
    return previous * keep + sample * (1.0 - keep)


SLOW_START_FLOOR: Final = 0.1
"""The share with which an endpoint comes back; less would keep a quiet service from trying it at all."""


def slow_start_factor(since_return: float, duration: float) -> float:
    """What part of its weight an endpoint has ``since_return`` seconds after it came back: linear up to 1."""
    if since_return >= duration:
        return 1.0
    return max(SLOW_START_FLOOR, since_return / duration)
