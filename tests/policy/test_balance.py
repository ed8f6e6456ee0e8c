"""Balancers: who is chosen, who never is, and in which proportion."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charon.policy.balance import Balancer, RoundRobin, balancer, observe_latency, slow_start_factor
from charon.policy.hashing import KEY_SPAN, Ring, hash_key

ALGORITHMS = ["round_robin", "least_request", "random", "ring_hash", "ewma"]
DRAWN = ["least_request", "random", "ewma"]


@dataclass
class Endpoint:
    name: str
    weight: float = 1
    in_flight: int = 0
    latency: float = 0.0
    ramp: float = 1.0


@dataclass(frozen=True)
class Settings:
    algorithm: str
    slow_start: float = 0.0


def endpoints(*weights: float) -> list[Endpoint]:
    return [Endpoint(f"10.0.0.{number}:80", weight) for number, weight in enumerate(weights, 1)]


def build(algorithm: str, members: list[Endpoint], seed: int = 1, slow_start: float = 0.0) -> Balancer:
    return balancer(Settings(algorithm, slow_start), members, random.Random(seed).random)


def everyone(index: int) -> bool:
    return True


def counted(chooser: Balancer, picks: int, usable: Callable[[int], bool] = everyone) -> Counter[int | None]:
    return Counter(chooser.pick(usable) for _ in range(picks))


class TestAll:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_without_endpoints_there_is_no_choice(self, algorithm: str) -> None:
        assert build(algorithm, []).pick(everyone, 7) is None

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("count", [1, 2, 3, 50])
    def test_with_none_usable_there_is_no_choice_and_the_first_that_comes_back_is_chosen(
        self, algorithm: str, count: int
    ) -> None:
        chooser = build(algorithm, endpoints(*range(1, count + 1)))
        for _ in range(3):
            assert chooser.pick(lambda index: False, 7) is None
        assert chooser.pick(lambda index: index == count - 1, 7) == count - 1

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("slow_start", [0.0, 10.0])
    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_only_usable_endpoints_are_picked_and_one_is_whenever_there_is_one(
        self, algorithm: str, slow_start: float, data: st.DataObject
    ) -> None:
        members = data.draw(
            st.lists(
                st.builds(
                    Endpoint,
                    name=st.uuids().map(str),
                    weight=st.sampled_from([1, 1, 2, 7, 100]),
                    in_flight=st.integers(0, 5),
                    latency=st.sampled_from([0.0, 0.001, 0.2]),
                    ramp=st.sampled_from([1.0, 0.1, 0.6]),
                ),
                min_size=1,
                max_size=8,
            )
        )
        chooser = build(algorithm, members, data.draw(st.integers(0, 9)), slow_start)
        states = data.draw(st.lists(st.sets(st.integers(0, len(members) - 1)), min_size=1, max_size=12))
        for number, state in enumerate(states):
            key = hash_key(b"%d" % number) if number % 2 else None
            chosen = chooser.pick(state.__contains__, key)
            assert chosen in state if state else chosen is None

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("weight", [0, -1, float("nan")])
    def test_a_weight_is_above_zero(self, algorithm: str, weight: float) -> None:
        with pytest.raises(ValueError, match="above 0"):
            build(algorithm, endpoints(1, weight))

    def test_an_unknown_algorithm_is_refused(self) -> None:
        with pytest.raises(ValueError, match="roundabout is not a way of balancing"):
            build("roundabout", endpoints(1))


class TestRoundRobin:
    def test_equal_endpoints_take_turns(self) -> None:
        chooser = RoundRobin([1, 1, 1])
        assert [chooser.pick(everyone) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]

    def test_who_is_not_usable_is_passed_by_and_the_others_go_on_in_turn(self) -> None:
        chooser = RoundRobin([1, 1, 1])
        assert [chooser.pick(lambda index: index != 1) for _ in range(4)] == [0, 2, 0, 2]
        assert [chooser.pick(everyone) for _ in range(3)] == [0, 1, 2]

    def test_who_was_passed_by_is_due_again_a_stride_later(self) -> None:
        chooser = RoundRobin([2, 1])
        assert [chooser.pick(everyone) for _ in range(2)] == [0, 0]
        assert chooser.pick(lambda index: index == 0) == 0, "it was the other's turn"
        assert [chooser.pick(everyone) for _ in range(2)] == [0, 1]

    def test_workers_do_not_all_begin_with_the_same_endpoint(self) -> None:
        firsts = {build("round_robin", endpoints(*[1] * 4), seed).pick(everyone) for seed in range(50)}
        assert firsts == {0, 1, 2, 3}

    @given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=7), start=st.integers(0, 6))
    def test_every_round_meets_the_weights_exactly(self, weights: list[int], start: int) -> None:
        chooser = RoundRobin(weights, start=start % len(weights))
        for _ in range(3):
            assert counted(chooser, sum(weights)) == dict(enumerate(weights))

    @given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=7), picks=st.integers(1, 400))
    def test_at_no_time_is_anyone_far_from_its_share(self, weights: list[int], picks: int) -> None:
        got = counted(RoundRobin(weights), picks)
        for index, weight in enumerate(weights):
            share = picks * weight / sum(weights)
            # One turn early or late, and that of each other's one turn which falls to this one.
            assert abs(got[index] - share) <= 1 + len(weights) * weight / sum(weights)

    def test_turns_are_spread_not_bunched(self) -> None:
        chooser = RoundRobin([4, 1, 1])
        picks = [chooser.pick(everyone) for _ in range(24)]
        assert max(len(run) for run in "".join(map(str, picks)).replace("1", " ").replace("2", " ").split()) <= 4
        assert "12" not in (joined := "".join(map(str, picks))) and "21" not in joined

    def test_the_rest_share_by_weight_what_the_unusable_one_leaves(self) -> None:
        chooser = RoundRobin([1000, 3, 1])
        assert counted(chooser, 4000, lambda index: index != 0) == {1: 3000, 2: 1000}

    def test_who_comes_back_does_not_make_up_for_missed_turns(self) -> None:
        chooser = RoundRobin([3, 1, 1])
        counted(chooser, 1000, lambda index: index != 0)
        assert abs(counted(chooser, 50)[0] - 30) <= 1

    @pytest.mark.parametrize("weight", [1, 3])
    def test_slow_start_takes_that_part_of_the_weight(self, weight: int) -> None:
        members = endpoints(weight, weight, weight)
        chooser = build("round_robin", members, slow_start=30.0)
        members[0].ramp = 0.1
        assert abs(counted(chooser, 2100)[0] - 100) <= 2
        members[0].ramp = 0.5
        assert abs(counted(chooser, 2500)[0] - 500) <= 3
        members[0].ramp = 1.0
        assert abs(counted(chooser, 3000)[0] - 1000) <= 3


class TestByChance:
    @pytest.mark.parametrize("algorithm", ["random", "least_request", "ewma"])
    @pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1), (5, 3, 1), (1, 9), (7,)])
    def test_idle_endpoints_are_chosen_by_weight(self, algorithm: str, weights: tuple[int, ...]) -> None:
        got = counted(build(algorithm, endpoints(*weights)), 6000)
        for index, weight in enumerate(weights):
            assert got[index] / 6000 == pytest.approx(weight / sum(weights), abs=0.04)

    @pytest.mark.parametrize("algorithm", ["random", "least_request"])
    def test_the_usable_few_among_many_are_chosen_by_weight(self, algorithm: str) -> None:
        weights = [1] * 50 + [3]
        got = counted(build(algorithm, endpoints(*weights)), 4000, {10, 50}.__contains__)
        assert got[50] / 4000 == pytest.approx(0.75, abs=0.04)
        assert got[10] + got[50] == 4000

    @pytest.mark.parametrize("algorithm", ["random", "least_request"])
    @pytest.mark.parametrize("count", [2, 5])
    def test_slow_start_takes_that_part_of_the_weight(self, algorithm: str, count: int) -> None:
        members = endpoints(*[1] * count)
        members[0].ramp = 0.25
        got = counted(build(algorithm, members, slow_start=30.0), 8000)
        assert got[0] / 8000 == pytest.approx(0.25 / (count - 0.75), abs=0.03)

    @pytest.mark.parametrize("algorithm", DRAWN)
    def test_the_one_usable_endpoint_is_chosen_however_slowly_it_starts(self, algorithm: str) -> None:
        members = endpoints(1, 1, 1)
        members[2].ramp = 0.1
        chooser = build(algorithm, members, slow_start=30.0)
        assert counted(chooser, 50, lambda index: index == 2) == {2: 50}


class TestLeastRequest:
    def test_of_two_the_less_busy_one_is_always_chosen(self) -> None:
        members = endpoints(1, 1)
        members[0].in_flight = 1
        assert counted(build("least_request", members), 100) == {1: 100}

    def test_load_is_seen_in_proportion_to_weight(self) -> None:
        members = endpoints(4, 1)
        members[0].in_flight, members[1].in_flight = 3, 1
        assert counted(build("least_request", members), 100) == {0: 100}
        members[0].in_flight = 5
        assert counted(build("least_request", members), 100) == {1: 100}

    def test_a_starting_endpoint_counts_as_a_lighter_one(self) -> None:
        members = endpoints(1, 1)
        members[0].in_flight, members[1].in_flight = 1, 2
        members[0].ramp = 0.25
        assert counted(build("least_request", members, slow_start=30.0), 100) == {1: 100}

    def test_the_busiest_of_many_is_never_chosen(self) -> None:
        members = endpoints(*[1] * 10)
        members[3].in_flight = 1
        assert counted(build("least_request", members), 2000)[3] == 0

    def test_requests_that_stay_are_spread_by_weight(self) -> None:
        members = endpoints(3, 2, 1, 1, 1)
        chooser = build("least_request", members)
        for _ in range(800):
            chosen = chooser.pick(everyone)
            assert chosen is not None
            members[chosen].in_flight += 1
        for member in members:
            assert member.in_flight == pytest.approx(800 * member.weight / 8, abs=15)


class TestPeakEwma:
    def test_the_faster_of_two_is_chosen_until_its_queue_is_longer_than_it_is_faster(self) -> None:
        members = endpoints(1, 1)
        members[0].latency, members[1].latency = 0.010, 0.035
        chooser = build("ewma", members)
        chosen = []
        for _ in range(5):
            index = chooser.pick(everyone)
            assert index is not None
            members[index].in_flight += 1
            chosen.append(index)
        assert chosen == [0, 0, 0, 1, 0]

    def test_a_starting_endpoint_counts_as_a_lighter_one(self) -> None:
        members = endpoints(1, 1)
        members[0].latency, members[1].latency = 0.010, 0.030
        members[0].ramp = 0.25
        assert counted(build("ewma", members, slow_start=30.0), 100) == {1: 100}

    def test_an_unknown_endpoint_gets_one_request_and_no_second_before_the_answer(self) -> None:
        members = endpoints(1, 1)
        members[0].latency, members[0].in_flight = 0.5, 20
        chooser = build("ewma", members)
        assert chooser.pick(everyone) == 1
        members[1].in_flight = 1
        assert counted(chooser, 50) == {0: 50}

    def test_when_nothing_is_known_requests_are_spread(self) -> None:
        members = endpoints(1, 1)
        chooser = build("ewma", members)
        for _ in range(20):
            index = chooser.pick(everyone)
            assert index is not None
            members[index].in_flight += 1
        assert [member.in_flight for member in members] == [10, 10]

    def test_a_slower_sample_counts_at_once(self) -> None:
        assert observe_latency(0.010, 2.0, 0.001, tau=10) == 2.0
        assert observe_latency(0.0, 0.3, 0.0, tau=10) == 0.3

    def test_faster_samples_bring_it_down_with_time(self) -> None:
        assert observe_latency(2.0, 0.0, 10, tau=10) == pytest.approx(2.0 / exp(1))
        assert observe_latency(2.0, 1.0, 10, tau=10) == pytest.approx(1.0 + 1.0 / exp(1))
        assert observe_latency(2.0, 1.0, 0, tau=10) == 2.0
        assert observe_latency(2.0, 1.0, -5, tau=10) == 2.0  # a clock reading out of order changes nothing

    @given(previous=st.floats(0, 100), sample=st.floats(0, 100), elapsed=st.floats(0, 1e6), tau=st.floats(0.01, 1e3))
    def test_it_stays_between_what_was_and_what_is(
        self, previous: float, sample: float, elapsed: float, tau: float
    ) -> None:
        now = observe_latency(previous, sample, elapsed, tau)
        assert sample * (1 - 1e-9) <= now <= max(previous, sample) * (1 + 1e-9)


class TestSlowStart:
    @pytest.mark.parametrize(
        ("since", "duration", "factor"),
        [
            (0, 30, 0.1),
            (2, 30, 0.1),
            (6, 30, 0.2),
            (15, 30, 0.5),
            (30, 30, 1.0),
            (99, 30, 1.0),
            (0, 0, 1.0),
            (5, 0, 1.0),
        ],
    )
    def test_it_grows_linearly_from_a_tenth_to_all(self, since: float, duration: float, factor: float) -> None:
        assert slow_start_factor(since, duration) == pytest.approx(factor)


KEYS = [hash_key(b"client-%d" % number) for number in range(4000)]


def ring_of(names: list[str], weights: list[float] | None = None) -> Callable[[int], str]:
    ring = Ring(names, weights or [1.0] * len(names), random.Random(1).random)

    def owner(key: int) -> str:
        index = ring.pick(everyone, key)
        assert index is not None
        return names[index]

    return owner


class TestRing:
    @pytest.mark.parametrize("count", [2, 3, 10, 40])
    def test_when_one_leaves_only_its_keys_move_and_they_are_about_one_in_n(self, count: int) -> None:
        names = [f"10.1.2.{number}:8080" for number in range(count)]
        before = ring_of(names)
        after = ring_of(names[:1] + names[2:])
        moved = [key for key in KEYS if before(key) != after(key)]
        assert {before(key) for key in moved} == {names[1]}
        assert not any(after(key) == names[1] for key in KEYS)
        assert 0.5 / count < len(moved) / len(KEYS) < 1.6 / count

    @settings(max_examples=40, deadline=None)
    @given(names=st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True), gone=st.integers(0, 5))
    def test_whatever_the_names_no_key_moves_between_those_that_stay(self, names: list[str], gone: int) -> None:
        leaving = names[gone % len(names)]
        before, after = ring_of(names), ring_of([name for name in names if name != leaving])
        for key in KEYS[:300]:
            assert before(key) == leaving or before(key) == after(key)

    def test_an_endpoint_that_cannot_be_used_is_as_one_that_left(self) -> None:
        names = [f"e{number}" for number in range(5)]
        ring = Ring(names, [1.0] * 5, random.Random(1).random)
        without = ring_of([name for name in names if name != "e2"])
        for key in KEYS[:1000]:
            index = ring.pick(lambda index: index != 2, key)
            assert index is not None
            assert names[index] == without(key)

    def test_the_order_of_endpoints_does_not_matter(self) -> None:
        names = [f"e{number}" for number in range(7)]
        forwards, backwards = ring_of(names), ring_of(names[::-1])
        assert all(forwards(key) == backwards(key) for key in KEYS)

    @pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 1], [4, 1], [100, 300], [1000] * 3])
    def test_keys_are_shared_by_weight(self, weights: list[float]) -> None:
        names = [f"10.0.0.{number}:80" for number in range(len(weights))]
        got = Counter(map(ring_of(names, weights), KEYS))
        for name, weight in zip(names, weights, strict=True):
            assert got[name] / len(KEYS) == pytest.approx(weight / sum(weights), rel=0.3)

    @pytest.mark.parametrize("key", [0, 1, KEY_SPAN - 1])
    def test_the_ring_has_no_end(self, key: int) -> None:
        assert ring_of(["a", "b"])(key) in ("a", "b")
        ring = Ring(["a", "b"], [1.0, 1.0], random.Random(1).random)
        assert [ring.pick({only}.__contains__, key) for only in (0, 1)] == [0, 1]

    def test_without_a_key_chance_decides(self) -> None:
        got = counted(build("ring_hash", endpoints(1, 1, 1)), 3000)
        assert all(got[index] > 600 for index in range(3))

    def test_each_endpoint_is_asked_a_bounded_number_of_times(self) -> None:
        asked: Counter[int] = Counter()
        ring = Ring([f"e{number}" for number in range(30)], [1.0] * 30, random.Random(1).random)

        def usable(index: int) -> bool:
            asked[index] += 1
            return index == 29

        assert ring.pick(usable, KEYS[0]) == 29
        assert max(asked.values()) <= 2

    def test_every_process_agrees(self) -> None:
        program = (
            "from charon.policy.hashing import Ring, hash_key\n"
            "ring = Ring(['a:1', 'b:1', 'c:1'], [1, 2, 3], lambda: 0.5)\n"
            "print([ring.pick(lambda i: True, hash_key(b'%d' % n)) for n in range(200)])\n"
        )
        root = str(Path(__file__).parents[2])
        outputs = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": root},
                cwd=root,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for seed in ("1", "2")
        }
        ring = Ring(["a:1", "b:1", "c:1"], [1, 2, 3], lambda: 0.5)
        here = [ring.pick(everyone, hash_key(b"%d" % number)) for number in range(200)]
        assert outputs == {f"{here}\n"}

    def test_the_hash_is_fixed_for_ever(self) -> None:
        """Another one would move every client of every ring at an upgrade."""
        assert f"{hash_key(b''):016x}" == "e4a6a0577479b2b4"
        assert f"{hash_key(b'10.0.0.1'):016x}" == "538ef646e14d03e6"
