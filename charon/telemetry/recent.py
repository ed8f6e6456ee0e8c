"""How things go right now: rates and latencies of the last seconds, from totals that only ever grow.

Pure: whoever owns the totals gives a :class:`Sample` of them every second or so, with the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from charon.base.names import Metric
from charon.telemetry.families import REQUEST_BUCKETS

WINDOW_SECONDS: Final = 10.0
"""What a rate or a percentile is taken over."""

HISTORY_SAMPLES: Final = 60

COUNTERS: Final = (
    Metric.HTTP_REQUESTS,
    Metric.HTTP_RETRIES,
    Metric.HTTP_RATE_LIMITED,
    Metric.RETRY_BUDGET_EXHAUSTED,
    Metric.CONNECTIONS_TOTAL,
    Metric.LISTENER_REQUESTS,
    Metric.LISTENER_ERRORS,
    Metric.RECEIVED_BYTES,
    Metric.SENT_BYTES,
    Metric.TCP_CONNECTIONS,
)
"""The counters whose rates are known."""

Labels = tuple[str, ...]
Series = Mapping[Labels, float]


class Observed(Protocol):
    """A histogram: observations in each bucket, not cumulative."""

    @property
    def counts(self) -> Sequence[int]: ...


class Sample(Protocol):
    """The totals at one moment."""

    def counter(self, name: str) -> Series:
        """Every series of a counter."""

    def histogram(self, name: str) -> Mapping[Labels, Observed]:
        """Every series of a histogram."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """What came between two samples: ``seconds`` apart. Only what has grown is in it."""

    seconds: float
    counters: dict[str, dict[Labels, float]]
    latency: dict[Labels, list[int]]


@dataclass(slots=True)
class Latency:
    """Seconds that requests took: what half of them, nine in ten, and 99 in a hundred of them stayed below."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(REQUEST_BUCKETS) + 1))

    def add(self, counts: Sequence[int]) -> None:
        self.counts = [mine + more for mine, more in zip(self.counts, counts, strict=True)]

    def percentiles(self) -> dict[str, float] | None:
        """``p50``, ``p90`` and ``p99`` in milliseconds; None when there was no request."""
        if not any(self.counts):
            return None
        return {f"p{q}": round(quantile(self.counts, REQUEST_BUCKETS, q / 100) * 1000, 3) for q in (50, 90, 99)}


def quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the observations stay below, taken as spread evenly in their bucket.

    What lies above the last bound counts as that bound. ValueError when there are no observations.
    """
    total = sum(counts)
    if not total:
        raise ValueError("there are no observations")
    wanted = share * total
    low = 0.0
    for count, high in zip(counts, bounds, strict=False):
        if count and wanted <= count:
            return low + (high - low) * wanted / count
        wanted -= count
        low = high
    return bounds[-1]


class Recent:
    """The last minute, in samples; :meth:`window` adds the newest of them up."""

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque(maxlen=HISTORY_SAMPLES)
        self._counters: dict[str, dict[Labels, float]] = {}
        self._latency: dict[Labels, list[int]] = {}
        self._at: float | None = None

    def sample(self, now: float, totals: Sample) -> None:
        """Take note of ``totals`` at ``now``, in monotonic seconds. The first sample only says where to count from."""
        counters = {name: dict(totals.counter(name)) for name in COUNTERS}
        latency = {labels: list(seen.counts) for labels, seen in totals.histogram(Metric.HTTP_LATENCY).items()}
        if self._at is not None and now > self._at:
            grown = {name: dict(_grown(series, self._counters[name])) for name, series in counters.items()}
            self._slots.append(_Slot(now - self._at, grown, dict(_observed(latency, self._latency))))
        if self._at is None or now > self._at:
            self._counters, self._latency, self._at = counters, latency, now

    def window(self) -> Window:
        """The last ``WINDOW_SECONDS``, or as many as there have been."""
        chosen: list[_Slot] = []
        seconds = 0.0
        for slot in reversed(self._slots):
            if chosen and seconds + slot.seconds > WINDOW_SECONDS * 1.05:  # samples come a little late, not early
                break
            chosen.append(slot)
            seconds += slot.seconds
        return Window(chosen, seconds)

    def history(self, name: str, place: int, wanted: str = "") -> dict[str, list[float]]:
        """Rates sample by sample, the oldest first, by the label at ``place``; a missing one is 0.

        ``wanted`` is what a status label begins with, for families that have one.
        """
        size = len(self._slots)
        found: dict[str, list[float]] = {}
        for index, slot in enumerate(self._slots):
            for labels, amount in slot.counters.get(name, {}).items():
                if not wanted or labels[1].startswith(wanted):
                    rates = found.setdefault(labels[place], [0.0] * size)
                    rates[index] = round(rates[index] + amount / slot.seconds, 2)
        return found

    @property
    def samples(self) -> int:
        return len(self._slots)


class Window:
    """What the last ``seconds`` came to."""

    def __init__(self, slots: Sequence[_Slot], seconds: float) -> None:
        self.seconds = seconds
        self._slots = slots

    def rates(self, name: str) -> dict[Labels, float]:
        """Per second, by labels; series that did not grow are not there."""
        sums: dict[Labels, float] = {}
        for slot in self._slots:
            for labels, amount in slot.counters.get(name, {}).items():
                sums[labels] = sums.get(labels, 0.0) + amount
        return {labels: amount / self.seconds for labels, amount in sums.items()}

    def rates_by(self, name: str, place: int) -> dict[str, float]:
        """Per second, by the label at ``place``."""
        sums: dict[str, float] = {}
        for labels, rate in self.rates(name).items():
            sums[labels[place]] = sums.get(labels[place], 0.0) + rate
        return sums

    def rate(self, name: str) -> float:
        """Per second, all series together."""
        return sum(self.rates(name).values())

    def latency(self) -> dict[str, Latency]:
        """How long requests took, by upstream."""
        found: dict[str, Latency] = {}
        for slot in self._slots:
            for (_, upstream), counts in slot.latency.items():
                found.setdefault(upstream, Latency()).add(counts)
        return found


def _grown(now: Series, before: Series) -> Iterator[tuple[Labels, float]]:
    """What was added to each series. One that is smaller than before has left and come back: all of it is new."""
    for labels, value in now.items():
        old = before.get(labels, 0.0)
        amount = value - old if value >= old else value
        if amount:
            yield labels, amount


def _observed(
    now: Mapping[Labels, list[int]], before: Mapping[Labels, list[int]]
) -> Iterator[tuple[Labels, list[int]]]:
    for labels, counts in now.items():
        old = before.get(labels)
        if old is None or sum(counts) < sum(old):
            old = [0] * len(counts)
        if counts != old:
            yield labels, [max(0, new - was) for new, was in zip(counts, old, strict=True)]
