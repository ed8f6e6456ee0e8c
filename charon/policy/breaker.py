"""The circuit breaker of one endpoint: pure steps over a small immutable value.

Closed, it counts failures in a row (and, where an error rate is set, the share of failures in a sliding window) and
opens when there are too many. Open, it refuses. After ``open_duration`` it is half-open: exactly one request, the
trial, passes; its success closes the breaker, its failure opens it again, and a trial that ends without evidence
hands its place to the next request. The pattern is Nygard's, "Release It!", chapter 5.

A :class:`Breaker` is :data:`WORDS` numbers in a row of shared memory; a zeroed row is a closed breaker, and its first
word alone says whether it is closed. Fields read back as whole floats are as good as ints. Whoever changes a row reads
it, steps and writes it under the row's lock; a step that changes nothing returns the very value it was given, so
``after is before`` saves the write. Compare ``state`` before and after to count each transition once. Times are
monotonic seconds of one machine; they may arrive slightly out of order from several processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from math import inf
from typing import Final, NamedTuple, Protocol


class Spec(Protocol):
    """What is looked at of a breaker's settings; durations are seconds, ``error_rate`` is 0 to 1 or None for off."""

    @property
    def failure_threshold(self) -> int: ...

    @property
    def open_duration(self) -> float: ...

    @property
    def error_rate(self) -> float | None: ...

    @property
    def window(self) -> float: ...

    @property
    def min_requests(self) -> int: ...


class State(IntEnum):
    """What a breaker does with requests."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class Admission(IntEnum):
    """What becomes of one request; false when it is refused."""

    REFUSED = 0
    PASS = 1
    TRIAL = 2


class Breaker(NamedTuple):
    """``changed_at`` is when ``state`` last changed. ``trial`` is the id of the trial's holder (worker slot + 1), 0 for
    none, and ``trial_at`` when it began.

    The error rate is taken over two halves of the window: ``requests`` and ``failed`` count since ``window_start``,
    the ``earlier_`` pair in the half before. So it never looks back further than the window, and at least half of it.
    """

    state: int
    failures: int
    changed_at: float
    trial: int
    trial_at: float
    window_start: float
    requests: int
    failed: int
    earlier_requests: int
    earlier_failed: int


def of_words(words: Iterable[float]) -> Breaker:
    """The state that a row of :data:`WORDS` floats holds."""
    state, failures, changed_at, trial, trial_at, start, *counts = words
    requests, failed, earlier_requests, earlier_failed = map(int, counts)
    return Breaker(
        int(state), int(failures), changed_at, int(trial), trial_at, start,
        requests, failed, earlier_requests, earlier_failed,
    )  # fmt: skip


FRESH: Final = Breaker(0, 0, 0.0, 0, 0.0, 0.0, 0, 0, 0, 0)
"""A breaker that has seen nothing: what a zeroed row holds."""

WORDS: Final = len(FRESH)
"""Numbers in a row."""

TRIAL_PATIENCE: Final = 1.0
"""Seconds after which to ask again while a trial is running, whose end nobody knows."""

# Members as plain numbers: looking them up in an enum class costs more than the decision.
_CLOSED: Final = 0
_OPEN: Final = 1
_HALF_OPEN: Final = 2
_REFUSED: Final = Admission.REFUSED
_PASS: Final = Admission.PASS
_TRIAL: Final = Admission.TRIAL


def would_admit(b: Breaker, spec: Spec, now: float) -> bool:
    """Whether :func:`admit` would let a request pass now; changes nothing, so it may be asked of many endpoints."""
    state = b.state
    if state == _CLOSED:
        return True
    if state == _OPEN:
        return now >= b.changed_at + spec.open_duration
    return b.trial == 0


def admit(b: Breaker, spec: Spec, now: float, holder: int) -> tuple[Breaker, Admission]:
    """Let a request of ``holder`` (1 or more) pass, make it the trial, or refuse it.

    Whoever gets ``TRIAL`` must end it by :func:`success`, :func:`failure` or :func:`release`.
    """
    state = b.state
    if state == _CLOSED:
        return b, _PASS
    if state == _OPEN:
        if now < b.changed_at + spec.open_duration:
            return b, _REFUSED
        return Breaker(_HALF_OPEN, b.failures, now, holder, now, 0.0, 0, 0, 0, 0), _TRIAL
    if b.trial:
        return b, _REFUSED
    return Breaker(_HALF_OPEN, b.failures, b.changed_at, holder, now, 0.0, 0, 0, 0, 0), _TRIAL


def success(b: Breaker, spec: Spec, now: float, trial: bool, began: float = inf) -> Breaker:
    """A request that was admitted at ``began``, as the trial or not, was answered well.

    What was admitted before the last change of state is no evidence about the present one.
    """
    if b.state != _CLOSED:
        return Breaker(_CLOSED, 0, now, 0, 0.0, 0.0, 0, 0, 0, 0) if trial and b.trial else b
    if spec.error_rate is None:
        if not b.failures or began < b.changed_at:
            return b
        return Breaker(_CLOSED, 0, b.changed_at, 0, 0.0, 0.0, 0, 0, 0, 0)
    if began < b.changed_at:
        return b
    start, requests, failed, before, before_failed = _window(b, spec.window, now)
    return Breaker(_CLOSED, 0, b.changed_at, 0, 0.0, start, requests + 1, failed, before, before_failed)


def failure(b: Breaker, spec: Spec, now: float, trial: bool, began: float = inf) -> Breaker:
    """A request that was admitted at ``began``, as the trial or not, failed by the endpoint's fault.

    The breaker opens only here: at ``failure_threshold`` failures in a row, or when the share of failures reaches
    ``error_rate`` among at least ``min_requests``.
    """
    failures = b.failures + 1
    if b.state != _CLOSED:
        return Breaker(_OPEN, failures, now, 0, 0.0, 0.0, 0, 0, 0, 0) if trial and b.trial else b
    if began < b.changed_at:
        return b
    if failures >= spec.failure_threshold:
        return Breaker(_OPEN, failures, now, 0, 0.0, 0.0, 0, 0, 0, 0)
    rate = spec.error_rate
    if rate is None:
        return Breaker(_CLOSED, failures, b.changed_at, 0, 0.0, 0.0, 0, 0, 0, 0)
    start, requests, failed, before, before_failed = _window(b, spec.window, now)
    requests += 1
    failed += 1
    total = requests + before
    if total >= spec.min_requests and failed + before_failed >= rate * total:
        return Breaker(_OPEN, failures, now, 0, 0.0, 0.0, 0, 0, 0, 0)
    return Breaker(_CLOSED, failures, b.changed_at, 0, 0.0, start, requests, failed, before, before_failed)


def release(b: Breaker, holder: int) -> Breaker:
    """The trial of ``holder`` ended without evidence: its client left, Charon failed, or its worker died.

    The next request becomes the trial. Nothing changes when ``holder`` has no trial, so that it may be called for a
    dead worker on every row.
    """
    if b.trial == 0 or b.trial != holder:
        return b
    return Breaker(b.state, b.failures, b.changed_at, 0, 0.0, 0.0, 0, 0, 0, 0)


def retry_after(b: Breaker, spec: Spec, now: float) -> float:
    """Seconds after which a refused request may be worth repeating; 0 when it would be admitted now."""
    if would_admit(b, spec, now):
        return 0.0
    if b.state != _OPEN:
        return TRIAL_PATIENCE
    return min(b.changed_at + spec.open_duration - now, spec.open_duration)  # rounding must not make 20 s 21


def _window(b: Breaker, length: float, now: float) -> tuple[float, int, int, int, int]:
    """The window's fields as of ``now``: the halves move on when the present one is over."""
    half = length / 2
    age = now - b.window_start
    if age < half:
        return b.window_start, b.requests, b.failed, b.earlier_requests, b.earlier_failed
    if age < length:
        return b.window_start + half, 0, 0, b.requests, b.failed
    return now, 0, 0, 0, 0
