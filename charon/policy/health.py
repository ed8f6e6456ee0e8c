"""Whether an endpoint is thought to work: by probes, and by the traffic it was given.

The two are kept apart. A probe says that a port accepts connections; it never takes back what requests have shown, or
an endpoint that accepts and then fails would return with every probe. So passive state is cleared by traffic or time
alone. An endpoint is used when neither of the two is against it.

Passive state is a row of :data:`PASSIVE_WORDS` numbers in shared memory, changed under its lock; a zeroed row is an
endpoint with nothing against it. A step that changes nothing returns the very value it was given. Times are monotonic
seconds, ``jitter`` is uniform in [0, 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple, Protocol

RECOVERY_INTERVAL: Final = 1.0
"""Longest time in seconds between two probes of an unhealthy endpoint."""


# -- active: probes ---------------------------------------------------------------------------------------------------


class ProbeSpec(Protocol):
    """What is looked at of a health check's settings; ``interval`` is in seconds."""

    @property
    def interval(self) -> float: ...

    @property
    def healthy_threshold(self) -> int: ...

    @property
    def unhealthy_threshold(self) -> int: ...


class Probe(NamedTuple):
    """``streak`` counts results in a row that speak against ``healthy``."""

    healthy: bool
    streak: int


def observe(probe: Probe | None, ok: bool, spec: ProbeSpec) -> Probe:
    """The state after one more result: the first one decides at once, later ones by the thresholds.

    ``probe`` is None before the first result. Until then an endpoint counts as healthy, or nothing could be served
    after a start.
    """
    if probe is None:
        return Probe(ok, 0)
    if ok == probe.healthy:
        return Probe(ok, 0) if probe.streak else probe
    streak = probe.streak + 1
    needed = spec.healthy_threshold if ok else spec.unhealthy_threshold
    return Probe(ok, 0) if streak >= needed else Probe(probe.healthy, streak)


def first_delay(spec: ProbeSpec, jitter: float) -> float:
    """Seconds until an endpoint's first probe: spread, so that a start is not a volley, yet within one second."""
    return min(spec.interval, RECOVERY_INTERVAL) * jitter


def next_delay(spec: ProbeSpec, healthy: bool, jitter: float) -> float:
    """Seconds from the start of one probe to the start of the next: the interval, ±10 %.

    An unhealthy endpoint is probed every second at least, so that its return is seen soon; here jitter only shortens.
    """
    if healthy:
        return spec.interval * (0.9 + 0.2 * jitter)
    return min(spec.interval, RECOVERY_INTERVAL) * (0.9 + 0.1 * jitter)


# -- passive: traffic -------------------------------------------------------------------------------------------------


class PassiveSpec(Protocol):
    """What is looked at of the settings; durations are seconds, both of them above 0."""

    @property
    def failures(self) -> int: ...

    @property
    def cooldown(self) -> float: ...

    @property
    def max_cooldown(self) -> float: ...

    @property
    def max_ejected_percent(self) -> float: ...


class Passive(NamedTuple):
    """``failures`` in a row since the last success. The endpoint is set aside until ``ejected_until``. ``ejections``
    says how often the cooldown has doubled; ``since`` is when the last ejection began, or was ended by a success."""

    failures: int
    ejected_until: float
    ejections: int
    since: float


def of_words(words: Iterable[float]) -> Passive:
    """The state that a row of :data:`PASSIVE_WORDS` floats holds."""
    failures, until, ejections, since = words
    return Passive(int(failures), until, int(ejections), since)


UNHARMED: Final = Passive(0, 0.0, 0, 0.0)
"""Nothing against the endpoint: what a zeroed row holds."""

PASSIVE_WORDS: Final = len(UNHARMED)
"""Numbers in a row."""


def is_ejected(p: Passive, now: float) -> bool:
    """Whether traffic has set the endpoint aside. Where all endpoints of a service are, all of them are tried."""
    return now < p.ejected_until


def failure(p: Passive, spec: PassiveSpec, now: float, ejected_now: int, endpoints: int, began: float = inf) -> Passive:
    """A request that was sent at ``began`` failed by the endpoint's fault.

    At ``spec.failures`` in a row the endpoint is set aside, if :func:`may_eject` allows; if not, the next failure asks
    again. ``ejected_now`` of the service's ``endpoints`` are set aside already: the caller counts and steps under one
    lock, or two workers could exceed the share together. While the endpoint is set aside (all are, and it was tried
    all the same), and for requests from before that, failures are nothing new.
    """
    if now < p.ejected_until or began < p.since:
        return p
    failures = p.failures + 1
    if failures < spec.failures or not may_eject(spec, ejected_now, endpoints):
        return Passive(failures, p.ejected_until, p.ejections, p.since)
    level = _level(p, spec, now)
    cooldown = spec.cooldown * 2.0**level
    if cooldown < spec.max_cooldown:
        level += 1  # counted no further than it matters, so that forgetting does not take for ever
    return Passive(0, now + min(cooldown, spec.max_cooldown), level, now)


def success(p: Passive, now: float, began: float = inf) -> Passive:
    """A request that was sent at ``began`` was answered well: the failures before it, and the ejection if one is in
    force, are over. ``ejections`` stay: the next cooldown is still longer until a long good time has passed."""
    ejected = now < p.ejected_until
    if not (p.failures or ejected) or began < p.since:
        return p
    if ejected:
        return Passive(0, 0.0, p.ejections, now)
    return Passive(0, p.ejected_until, p.ejections, p.since)


def may_eject(spec: PassiveSpec, ejected_now: int, endpoints: int) -> bool:
    """Whether one more endpoint may be set aside besides ``ejected_now``.

    The first always may, however small the service: half of three is one, a tenth of three would be none and make the
    setting useless; and a lone endpoint set aside is tried nevertheless. Beyond the first the share is never exceeded.
    A share of 0 turns ejection off.
    """
    share = spec.max_ejected_percent
    return share > 0 and (ejected_now == 0 or (ejected_now + 1) * 100 <= endpoints * share)


def _level(p: Passive, spec: PassiveSpec, now: float) -> int:
    """How often the cooldown doubles now: one less for every ``max_cooldown`` seconds that went well since the last."""
    if not p.ejections:
        return 0
    good = now - max(p.since, p.ejected_until)
    return max(0, int(p.ejections) - int(good // spec.max_cooldown))
