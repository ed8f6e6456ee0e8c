"""Weighted services: their shares, and clients that stay."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.policy.split import Split

CANARY = [("stable", 9), ("canary", 1)]


def cookie_of(set_cookie: bytes | None) -> bytes:
    """What a browser sends back for a Set-Cookie value."""
    assert set_cookie is not None
    return set_cookie.split(b";")[0]


@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any))
def test_each_service_has_a_stretch_as_long_as_its_weight(weights: list[int]) -> None:
    split = Split([(f"s{index}", weight) for index, weight in enumerate(weights)])
    total = sum(weights)
    # The middle of each of `total` equal steps: exact counting.
    got = Counter(split.choose((step + 0.5) / total) for step in range(total))
    assert got == {f"s{index}": weight for index, weight in enumerate(weights) if weight}


def test_random_points_converge_to_the_weights() -> None:
    split, rng = Split([("a", 70), ("b", 25), ("c", 5)]), random.Random(3)
    got = Counter(split.assign([], rng.random())[0] for _ in range(20_000))
    for name, share in (("a", 0.70), ("b", 0.25), ("c", 0.05)):
        assert got[name] / 20_000 == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("point", [0.0, 1 - 2**-53])
def test_the_ends_of_the_range_belong_to_someone(point: float) -> None:
    assert Split([("off", 0), ("a", 1), ("b", 3), ("gone", 0)]).choose(point) == ("b" if point else "a")


class TestCookie:
    def test_a_new_client_is_told_its_service_and_stays_with_it(self) -> None:
        split = Split(CANARY, "cookie:shop")
        for point, service in ((0.1, "stable"), (0.95, "canary")):
            name, set_cookie = split.assign([(b"Accept", b"*/*")], point)
            assert name == service
            for later in (0.0, 0.5, 0.99):
                assert split.assign([(b"Cookie", cookie_of(set_cookie))], later) == (service, None)

    def test_the_value_to_set(self) -> None:
        _, set_cookie = Split(CANARY, "cookie:shop").assign([], 0.0)
        assert set_cookie is not None
        assert re.fullmatch(rb"charon-shop=[0-9a-f]{16}; Path=/; HttpOnly; SameSite=Lax", set_cookie)
        assert b"stable" not in set_cookie

    def test_it_is_found_among_others_and_in_several_fields(self) -> None:
        split = Split(CANARY, "cookie:shop")
        mine = cookie_of(split.assign([], 0.99)[1])
        for fields in (
            [(b"cookie", b"a=1; " + mine + b"; b=2")],
            [(b"COOKIE", b"a=1;" + mine)],
            [(b"Cookie", b"a=1"), (b"X", b"y"), (b"Cookie", mine)],
            [(b"Cookie", b"charon-shop=forged; " + mine)],
        ):
            assert split.assign(fields, 0.0) == ("canary", None)

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"charon-shop=",
            b"charon-shop",
            b"charon-shop=0000000000000000",
            b"charon-shop=canary",
            b"a=charon-shop=1",
        ],
    )
    def test_a_forged_one_is_as_none(self, value: bytes) -> None:
        name, set_cookie = Split(CANARY, "cookie:shop").assign([(b"Cookie", value)], 0.0)
        assert name == "stable" and set_cookie is not None

    @given(value=st.binary(max_size=60))
    def test_whatever_a_client_sends_a_service_is_chosen(self, value: bytes) -> None:
        name, set_cookie = Split(CANARY, "cookie:shop").assign([(b"Cookie", b"charon-shop=" + value)], 0.0)
        assert name == "stable" and set_cookie is not None

    def test_one_made_for_another_name_does_not_count(self) -> None:
        mark = cookie_of(Split(CANARY, "cookie:other").assign([], 0.99)[1]).partition(b"=")[2]
        assert Split(CANARY, "cookie:shop").assign([(b"Cookie", b"charon-shop=" + mark)], 0.0)[0] == "stable"

    def test_a_client_stays_when_weights_change_but_leaves_a_service_without_weight(self) -> None:
        mine = [(b"Cookie", cookie_of(Split(CANARY, "cookie:shop").assign([], 0.99)[1]))]
        assert Split([("stable", 99), ("canary", 1)], "cookie:shop").assign(mine, 0.0) == ("canary", None)
        name, set_cookie = Split([("stable", 1), ("canary", 0)], "cookie:shop").assign(mine, 0.0)
        assert name == "stable" and set_cookie is not None


class TestHeader:
    def test_a_value_always_has_the_same_service_and_no_cookie_is_set(self) -> None:
        split = Split(CANARY, "header:X-User")
        for user in range(100):
            fields = [(b"x-user", b"user-%d" % user)]
            assert len({split.assign(fields, point) for point in (0.0, 0.3, 0.99)}) == 1
            assert split.assign(fields, 0.0)[1] is None

    def test_values_are_shared_by_weight(self) -> None:
        split = Split([("a", 3), ("b", 1)], "header:X-User")
        got = Counter(split.assign([(b"X-User", b"user-%d" % user)], 0.0)[0] for user in range(4000))
        assert got["a"] / 4000 == pytest.approx(0.75, abs=0.04)

    def test_a_client_without_it_goes_by_chance(self) -> None:
        split = Split(CANARY, "header:X-User")
        assert split.assign([(b"X-Other", b"1")], 0.0) == ("stable", None)
        assert split.assign([], 0.99) == ("canary", None)


def test_every_process_agrees() -> None:
    program = (
        "from charon.policy.split import Split\n"
        "services = [('a', 1), ('b', 1)]\n"
        "print(Split(services, 'cookie:n').assign([], 0.0)[1])\n"
        "print([Split(services, 'header:u').assign([(b'u', b'%d' % n)], 0.0)[0] for n in range(100)])\n"
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
    assert len(outputs) == 1
    assert "'b'" in outputs.pop()


@pytest.mark.parametrize(
    ("services", "sticky", "said"),
    [
        ([], None, "at least one"),
        ([("a", 0)], None, "at least one"),
        ([("a", 1), ("b", -1)], None, "0 or more"),
        ([("a", 1)], "shop", "cookie:NAME or header:NAME"),
        ([("a", 1)], "cookie:", "cookie:NAME or header:NAME"),
        ([("a", 1)], "cookie:a b", "cookie:NAME or header:NAME"),
        ([("a", 1)], "cookie:a\r\nX: y", "cookie:NAME or header:NAME"),
        ([("a", 1)], "client_ip:x", "cookie:NAME or header:NAME"),
    ],
)
def test_what_cannot_be_is_refused(services: list[tuple[str, float]], sticky: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Split(services, sticky)
