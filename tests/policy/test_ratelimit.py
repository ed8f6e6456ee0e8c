"""Rate limits: how many pass, how many keys there can be, and what clients are told."""

from __future__ import annotations

import mmap
from array import array
from math import ceil

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from charon.policy.ratelimit import Decision, KeyTable, key_hash, ratelimit_fields, spacing, take

NOW = 1000.0
RATES = st.one_of(st.floats(0.01, 10_000), st.sampled_from([0.5, 1.0, 3.0, 100.0, 230.0]))
BURSTS = st.integers(1, 500)
MANY = st.integers(0, 2**64 - 1)


def admitted(tat: float, times: list[float], rate: float, burst: int) -> list[float]:
    passed = []
    for now in times:
        decision = take(tat, now, rate, burst)
        tat = decision.tat
        if decision.allowed:
            passed.append(now)
    return passed


# -- the algorithm ----------------------------------------------------------------------------------------------------


@given(RATES, BURSTS, st.sampled_from([0.0, NOW, 1e7]))
def test_a_full_bucket_lets_exactly_its_burst_pass_at_once(rate: float, burst: int, now: float) -> None:
    assert len(admitted(0.0, [now] * (burst + 3), rate, burst)) == burst


@given(RATES, BURSTS, st.lists(st.floats(0, 3), max_size=200))
def test_never_more_than_the_burst_and_what_flowed_in(rate: float, burst: int, pauses: list[float]) -> None:
    now, times = NOW, []
    for pause in pauses:
        now += pause / rate
        times.append(now)
    passed = admitted(0.0, times, rate, burst)
    for first in range(len(passed)):
        for last in (first, len(passed) - 1):
            assert last - first + 1 <= burst + rate * (passed[last] - passed[first]) + 0.011


@pytest.mark.parametrize("offered", [101, 120, 150, 230, 333, 1000, 2500])
@pytest.mark.parametrize("start", [0.0, 12_345.678, 1e7])
def test_steady_overload_gets_the_rate_and_not_one_less(offered: float, start: float) -> None:
    seconds, rate, burst = 20, 100.0, 5
    times = [start + count / offered for count in range(int(offered * seconds))]
    passed = len(admitted(0.0, times, rate, burst))
    # What is left of the bucket at the end depends on when the last request came.
    expected = min(len(times), burst + rate * seconds)
    assert expected - (rate / offered + 1) <= passed <= expected


def test_less_than_the_rate_always_passes() -> None:
    times = [NOW + count / 99.0 for count in range(1000)]
    assert admitted(0.0, times, 100.0, 1) == times


def test_less_than_one_a_second() -> None:
    assert admitted(0.0, [NOW, NOW + 1, NOW + 2, NOW + 3.9, NOW + 4], 0.5, 1) == [NOW, NOW + 2, NOW + 4]


@given(RATES, BURSTS, st.integers(0, 600), st.floats(0, 2))
def test_the_time_told_is_neither_too_short_nor_too_long(rate: float, burst: int, before: int, pause: float) -> None:
    tat = 0.0
    for _ in range(before):
        tat = take(tat, NOW, rate, burst).tat
    now = NOW + pause / rate
    decision = take(tat, now, rate, burst)
    tat = decision.tat
    if not decision.allowed:
        assert decision.remaining == 0
        assert decision.reset == decision.retry_after > 0
        assert take(tat, now + decision.retry_after, rate, burst).allowed
        assert not take(tat, now + decision.retry_after - 0.01 / rate, rate, burst).allowed
        return
    assert decision.retry_after == 0 and 0 < decision.reset <= 1.01 / rate
    assert len(admitted(tat, [now] * (burst + 1), rate, burst)) == decision.remaining
    later = now + decision.reset
    assert len(admitted(tat, [later] * (burst + 1), rate, burst)) == decision.remaining + 1


def test_whole_seconds_stay_whole() -> None:
    tat = 0.0
    for _ in range(50):
        tat = take(tat, 12_345.678, 1.0, 50).tat
    assert ceil(take(tat, 12_345.678, 1.0, 50).retry_after) == 1


def test_a_refused_request_takes_nothing() -> None:
    first = take(0.0, NOW, 10.0, 1)
    second = take(first.tat, NOW, 10.0, 1)
    assert second == Decision(False, first.tat, 0, second.retry_after, second.retry_after)


def test_time_that_seems_to_go_backwards_gives_nothing_away() -> None:
    tat = take(0.0, NOW, 10.0, 1).tat
    late = take(tat, NOW - 0.001, 10.0, 1)
    assert not late.allowed and late.tat == tat


def test_a_limit_that_was_raised_does_not_wait_for_the_old_one() -> None:
    tat = 0.0
    for _ in range(100):
        tat = take(tat, NOW, 1.0, 100).tat
    decision = take(tat, NOW, 100.0, 100)
    assert not decision.allowed
    assert decision.retry_after == pytest.approx(0.01, rel=0.01)
    assert take(decision.tat, NOW + decision.retry_after, 100.0, 100).allowed


# -- the table --------------------------------------------------------------------------------------------------------


def table(slots: int, ways: int = 8) -> KeyTable:
    return KeyTable(memoryview(bytearray(slots * 16)), ways)


@given(RATES, BURSTS, st.lists(st.floats(0, 3), max_size=100), st.integers(1, 60))
def test_drawing_lets_pass_what_taking_does(rate: float, burst: int, pauses: list[float], at_once: int) -> None:
    drawn, taken, now = table(8), table(8), NOW
    for pause in pauses:
        now += pause
        for _ in range(at_once):
            assert drawn.draw(1, now, *spacing(rate, burst)) == taken.take(1, now, rate, burst).allowed
    assert drawn.tats[drawn.slot_for(1)] == taken.tats[taken.slot_for(1)]


@given(st.lists(MANY, unique=True, min_size=1, max_size=8))
def test_keys_that_fit_keep_their_buckets(keys: list[int]) -> None:
    limits = table(8)
    for key in keys:
        assert limits.take(key, NOW, 1.0, 1).allowed
    for key in keys:
        assert not limits.take(key, NOW, 1.0, 1).allowed


@given(st.lists(MANY, min_size=1, max_size=300), st.integers(1, 9), st.integers(1, 5))
def test_whatever_keys_come_each_has_a_slot_of_its_own_set(keys: list[int], ways: int, sets: int) -> None:
    limits = table(ways * sets, ways)
    for key in keys:
        slot = limits.slot_for(key)
        assert limits.slot_for(key) == slot
        assert slot // (2 * ways) == key % sets
        limits.tats[slot] = NOW


def test_a_million_keys_need_no_more_memory_than_ten() -> None:
    words = memoryview(bytearray(64 * 16))
    limits = KeyTable(words)
    assert limits.capacity == 64
    for key in range(20_000):
        assert limits.take(key * 0x9E3779B97F4A7C15 % 2**64, NOW + key, 10.0, 1).allowed
    assert len(words) == 64 * 16


def test_a_bucket_that_is_full_again_makes_room_first() -> None:
    limits = table(4, ways=4)
    for key, burst_used in enumerate([3, 1, 2, 4]):
        for _ in range(burst_used):
            limits.take(key, NOW, 1.0, 10)
    now = NOW + 1.5  # the bucket of key 1 is full
    limits.take(99, now, 1.0, 10)
    for key, left in ((0, 7), (2, 8), (3, 6)):
        assert limits.take(key, now, 1.0, 10).remaining == left, key


def test_with_no_room_the_bucket_nearest_to_full_is_lost() -> None:
    limits = table(4, ways=4)
    for key, used in enumerate([5, 2, 10, 4]):
        for _ in range(used):
            limits.take(key, NOW, 1.0, 10)
    newcomer = limits.take(99, NOW, 1.0, 10)
    assert newcomer.remaining == 9, "a key that was not there has a full bucket"
    assert not limits.take(2, NOW, 1.0, 10).allowed, "a key at its limit stays there"
    assert limits.take(3, NOW, 1.0, 10).remaining == 5
    assert limits.take(0, NOW, 1.0, 10).remaining == 4


def test_many_strangers_do_not_free_a_key_at_its_limit() -> None:
    limits = table(8)
    for _ in range(100):
        limits.take(7, NOW, 1.0, 100)
    for stranger in range(1000, 3000):
        limits.take(stranger, NOW, 1.0, 100)
    assert not limits.take(7, NOW, 1.0, 100).allowed


def test_memory_is_shared() -> None:
    words = memoryview(mmap.mmap(-1, 4096)).cast("d")
    one, other = KeyTable(words[16:272]), KeyTable(words[16:272])
    assert one.take(5, NOW, 1.0, 1).allowed
    assert not other.take(5, NOW, 1.0, 1).allowed
    assert not any(words[:16]) and not any(words[272:]), "nothing is written beside it"


@pytest.mark.parametrize(("size", "capacity"), [(16, None), (127, None), (128, 8), (128 * 3 + 40, 24)])
def test_memory_that_does_not_fit_whole_sets(size: int, capacity: int | None) -> None:
    words = memoryview(bytearray(size))
    if capacity is None:
        with pytest.raises(ValueError, match="do not hold 8 slots"):
            KeyTable(words)
    else:
        assert KeyTable(words).capacity == capacity


def test_an_array_of_words_will_do() -> None:
    limits = KeyTable(memoryview(array("d", bytes(16 * 16))))
    assert limits.take(2**64 - 1, NOW, 1.0, 1).allowed
    assert not limits.take(2**64 - 1, NOW, 1.0, 1).allowed


def test_key_hashes() -> None:
    secret = b"s" * 16
    assert key_hash(b"10.0.0.1", secret) == key_hash(b"10.0.0.1", secret) < 2**64
    assert key_hash(b"10.0.0.1", secret) != key_hash(b"10.0.0.2", secret)
    assert key_hash(b"10.0.0.1", secret) != key_hash(b"10.0.0.1", b"t" * 16)


# -- header fields ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "burst", "policy"),
    [
        (100.0, 200, "q=200;w=2"),
        (100.0, 100, "q=100;w=1"),
        (100.0, 5, "q=100;w=1"),  # no window is shorter than a second
        (0.5, 1, "q=1;w=2"),
        (0.3, 1, "q=1;w=4"),
        (0.1, 3, "q=3;w=30"),
        (2.5, 10, "q=10;w=4"),
        (1 / 3, 1, "q=1;w=3"),
    ],
)
def test_policy_field(rate: float, burst: int, policy: str) -> None:
    assert ratelimit_fields("api", rate, burst, 0, 1.0)[0] == ("RateLimit-Policy", f'"api";{policy}')


@pytest.mark.parametrize(("remaining", "reset", "value"), [(50, 29.2, "r=50;t=30"), (0, 0.01, "r=0;t=1")])
def test_limit_field(remaining: int, reset: float, value: str) -> None:
    assert ratelimit_fields("api", 1.0, 60, remaining, reset)[1] == ("RateLimit", f'"api";{value}')


@pytest.mark.parametrize(
    ("name", "quoted"), [('a"b\\c', '"a\\"b\\\\c"'), ("a\r\nX: 1", '"a??X: 1"'), ("café", '"caf?"')]
)
def test_names_cannot_break_the_field(name: str, quoted: str) -> None:
    for _, value in ratelimit_fields(name, 1.0, 1, 0, 1.0):
        assert value.startswith(f"{quoted};")


@given(RATES, BURSTS)
def test_the_policy_told_is_never_more_than_the_limit_gives(rate: float, burst: int) -> None:
    value = ratelimit_fields("x", rate, burst, 0, 1.0)[0][1]
    quota, window = (int(part.partition("=")[2]) for part in value.split(";")[1:])
    assume(quota > 1)
    assert window >= 1 and quota <= rate * window + 1e-6
    assert quota + 1 > rate * window - 1e-6
