"""Rates and latencies of the last seconds, from totals that only grow."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.names import Metric
from charon.telemetry.families import REQUEST_BUCKETS
from charon.telemetry.recent import HISTORY_SAMPLES, Latency, Recent, quantile

SIZE = len(REQUEST_BUCKETS) + 1
A, B = ("GET", "200", "a:1"), ("GET", "503", "a:1")


@dataclass
class Observed:
    counts: list[int]


@dataclass
class Totals:
    """Totals that a test sets."""

    counters: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)
    latency: dict[tuple[str, ...], Observed] = field(default_factory=dict)

    def counter(self, name: str) -> dict[tuple[str, ...], float]:
        return self.counters.get(name, {})

    def histogram(self, name: str) -> dict[tuple[str, ...], Observed]:
        assert name == Metric.HTTP_LATENCY
        return self.latency


def requests(**counts: float) -> Totals:
    return Totals({Metric.HTTP_REQUESTS: {{"a": A, "b": B}[name]: count for name, count in counts.items()}})


def test_what_was_before_the_first_sample_is_no_traffic() -> None:
    recent = Recent()
    recent.sample(100.0, requests(a=1_000_000))
    assert recent.window().rates(Metric.HTTP_REQUESTS) == {}
    recent.sample(101.0, requests(a=1_000_010))
    assert recent.window().rates(Metric.HTTP_REQUESTS) == {A: 10.0}


def test_a_rate_is_over_the_time_that_passed_whenever_samples_come() -> None:
    recent = Recent()
    recent.sample(0.0, Totals())
    recent.sample(0.5, requests(a=5))
    recent.sample(2.5, requests(a=5, b=5))
    recent.sample(2.5, requests(a=99, b=99))  # no time has passed: it is part of the next one
    assert recent.window().rates(Metric.HTTP_REQUESTS) == {A: 2.0, B: 2.0}
    assert recent.window().rates_by(Metric.HTTP_REQUESTS, 2) == {"a:1": 4.0}
    assert recent.window().rate(Metric.HTTP_REQUESTS) == 4.0
    recent.sample(3.5, requests(a=99, b=99))
    assert recent.window().rate(Metric.HTTP_REQUESTS) == pytest.approx((99 + 99) / 3.5)


def test_only_the_last_ten_seconds_count() -> None:
    recent = Recent()
    for second in range(40):
        recent.sample(float(second), requests(a=1000.0 * min(second, 20)))
    assert recent.window().seconds == 10.0
    assert recent.window().rate(Metric.HTTP_REQUESTS) == 0.0
    for second in range(40, 45):
        recent.sample(float(second), requests(a=20_000 + 10.0 * (second - 39)))
    assert recent.window().rates(Metric.HTTP_REQUESTS) == {A: 5.0}


def test_a_series_that_left_and_came_back_starts_from_nothing() -> None:
    recent = Recent()
    for second, totals in enumerate((requests(a=500), requests(b=1), requests(a=7, b=1), requests(a=3, b=1))):
        recent.sample(float(second), totals)
    assert recent.window().rates(Metric.HTTP_REQUESTS) == {B: pytest.approx(1 / 3), A: pytest.approx(10 / 3)}


def test_the_last_minute_is_kept_sample_by_sample() -> None:
    recent = Recent()
    for second in range(HISTORY_SAMPLES + 31):
        recent.sample(float(second), requests(a=2.0 * second, b=float(second >= 80)))
    assert recent.samples == HISTORY_SAMPLES
    whole = recent.history(Metric.HTTP_REQUESTS, 2)["a:1"]
    assert len(whole) == HISTORY_SAMPLES and sorted(set(whole)) == [2.0, 3.0]
    errors = recent.history(Metric.HTTP_REQUESTS, 2, "5")["a:1"]
    assert errors.index(1.0) == whole.index(3.0) == HISTORY_SAMPLES - 11 and sum(errors) == 1.0
    assert recent.history(Metric.HTTP_RETRIES, 0) == {}


def test_latencies_of_all_methods_are_one() -> None:
    recent = Recent()
    old = [0] * SIZE
    recent.sample(0.0, Totals(latency={("GET", "a:1"): Observed(old)}))
    get, post = [0] * SIZE, [0] * SIZE
    get[1], post[6] = 98, 2
    recent.sample(1.0, Totals(latency={("GET", "a:1"): Observed(get), ("POST", "a:1"): Observed(post)}))
    latency = recent.window().latency()["a:1"]
    assert sum(latency.counts) == 100
    found = latency.percentiles()
    assert found is not None
    assert 0.5 <= found["p50"] <= 1.0 and 0.5 <= found["p90"] <= 1.0 and 25.0 <= found["p99"] <= 50.0
    recent.sample(2.0, Totals(latency={("GET", "a:1"): Observed(get)}))
    assert sum(recent.window().latency()["a:1"].counts) == 100, "nothing new"
    assert Latency().percentiles() is None


@given(
    st.lists(st.integers(0, 1000), min_size=SIZE, max_size=SIZE).filter(any),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
)
def test_quantiles_grow_and_stay_in_the_bucket_that_holds_them(counts: list[int], shares: list[float]) -> None:
    low, high = (quantile(counts, REQUEST_BUCKETS, share) for share in shares)
    assert 0 <= low <= high <= REQUEST_BUCKETS[-1]
    wanted, seen = shares[1] * sum(counts), 0
    for index, count in enumerate(counts[:-1]):
        seen += count
        if wanted <= seen and count:
            assert (REQUEST_BUCKETS[index - 1] if index else 0) <= high <= REQUEST_BUCKETS[index] * (1 + 1e-9)
            break


def test_a_quantile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError):
        quantile([0] * SIZE, REQUEST_BUCKETS, 0.5)
