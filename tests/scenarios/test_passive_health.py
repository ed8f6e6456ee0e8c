"""Passive health: what failed requests do to an endpoint, in all workers together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from time import monotonic

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Request, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually
from tests.scenarios.services import ask, serving, spread

EJECTED = "charon_upstream_ejected"
PANIC = "charon_service_all_ejected"
OFF = {"enabled": False}
ASIDE = {**OFF, "passive_failures": 3, "cooldown": "30s"}

SERVICES = {
    "threshold": (2, ASIDE),
    "in-a-row": (2, ASIDE),
    "share-3": (3, {**ASIDE, "passive_failures": 1}),
    "share-4": (4, {**ASIDE, "passive_failures": 1}),
    "off": (2, {**ASIDE, "passive_failures": 0}),
    "all": (2, {**ASIDE, "passive_failures": 1, "max_ejected_percent": 100}),
    "grows": (2, {**ASIDE, "passive_failures": 1, "cooldown": "150ms", "max_cooldown": "300ms"}),
    "probed": (2, {"type": "tcp", "interval": "40ms", "passive_failures": 2, "cooldown": "30s"}),
    "innocent": (2, {**ASIDE, "passive_failures": 1}),
}


class Member:
    """One endpoint, and what it answers now. Its name is the body of its answers."""

    def __init__(self, name: str) -> None:
        self.backend = ScriptedBackend()
        self.status = 200
        self.name = name.encode()
        self.times: list[float] = []
        self.backend.serve(self._answer)

    def _answer(self, request: Request) -> bytes:
        self.times.append(monotonic())
        return http_response(self.status, self.name, "Connection: close")


@pytest.fixture(scope="module")
def members() -> Iterator[dict[str, list[Member]]]:
    made = {name: [Member("abcd"[index]) for index in range(count)] for name, (count, _) in SERVICES.items()}
    yield made
    for group in made.values():
        for member in group:
            member.backend.stop()
            member.backend.check()


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, members: dict[str, list[Member]]) -> CharonProcess:
    services = {
        name: {
            "addresses": [member.backend.address for member in members[name]],
            "health_check": health,
            "retry": {"attempts": 0},
        }
        for name, (_, health) in SERVICES.items()
    }
    return start_shared_charon(serving(services, health_check={}), workers=4)


def ejected(charon: CharonProcess, service: str, member: Member) -> bool:
    return sample(charon.metrics(), EJECTED, service=service, upstream=member.backend.address) == 1


def test_set_aside_at_the_threshold_and_not_before(charon: CharonProcess, members: dict[str, list[Member]]) -> None:
    sick, _ = members["threshold"]
    sick.status = 500
    answers = spread(charon, "/threshold", 40)
    assert answers == {b"a": 3, b"b": 37}
    line = charon.wait_for_event("health_change", service="threshold")
    assert (line["upstream"], line["healthy"], line["by"]) == (sick.backend.address, False, "traffic")
    assert ejected(charon, "threshold", sick)
    assert sample(charon.metrics(), PANIC, service="threshold") == 0


def test_a_success_in_between_starts_the_count_anew(charon: CharonProcess, members: dict[str, list[Member]]) -> None:
    shaky, _ = members["in-a-row"]

    def next_one(status: int) -> None:
        shaky.status = status
        seen = len(shaky.times)
        eventually(lambda: ask(charon, "/in-a-row") and len(shaky.times) > seen)

    for status in (500, 500, 200, 500, 500, 200):
        next_one(status)
    assert not ejected(charon, "in-a-row", shaky)
    for status in (500, 500, 500):
        next_one(status)
    assert ejected(charon, "in-a-row", shaky)


@pytest.mark.parametrize(("service", "most"), [("share-3", 1), ("share-4", 2), ("off", 0)])
def test_never_more_than_the_share_at_once(
    charon: CharonProcess, members: dict[str, list[Member]], service: str, most: int
) -> None:
    for member in members[service]:
        member.status = 500
    for _ in range(30):
        assert ask(charon, f"/{service}").status == 500
    aside = [member for member in members[service] if ejected(charon, service, member)]
    assert len(aside) == most
    assert all(len(member.times) == 1 for member in aside)


def test_all_set_aside_means_all_are_tried(charon: CharonProcess, members: dict[str, list[Member]]) -> None:
    for member in members["all"]:
        member.status = 500
    eventually(lambda: ask(charon, "/all").status == 500 and sample(charon.metrics(), PANIC, service="all") == 1)
    before = [len(member.times) for member in members["all"]]
    answers = [ask(charon, "/all") for _ in range(20)]
    assert {(answer.status, answer.error) for answer in answers} == {(500, None)}
    assert all(len(member.times) > count for member, count in zip(members["all"], before, strict=True))
    well, _ = members["all"]
    well.status = 200
    # The first good answer brings it back at once; then it carries everything.
    eventually(lambda: ask(charon, "/all").status == 200)
    assert not ejected(charon, "all", well)
    assert spread(charon, "/all", 12) == {b"a": 12}
    assert sample(charon.metrics(), PANIC, service="all") == 0
    returned = charon.wait_for_event("health_change", service="all", healthy=True)
    assert (returned["upstream"], returned["by"]) == (well.backend.address, "traffic")


def test_each_repetition_lasts_longer_up_to_the_cap(charon: CharonProcess, members: dict[str, list[Member]]) -> None:
    sick, _ = members["grows"]
    sick.status = 500

    def five() -> bool:
        ask(charon, "/grows")
        return len(sick.times) >= 5

    eventually(five)
    waits = [later - earlier for earlier, later in pairwise(sick.times[:5])]
    assert waits[0] >= 0.14
    assert all(wait >= 0.29 for wait in waits[1:])
    assert sum(waits) < 0.15 + 3 * 0.3 + 2.0, "without the cap it would be 2.25 s and more"


def test_a_probe_that_connects_clears_nothing(charon: CharonProcess, members: dict[str, list[Member]]) -> None:
    sick, _ = members["probed"]
    sick.status = 500
    eventually(lambda: ask(charon, "/probed") and ejected(charon, "probed", sick))
    more = len(sick.backend.connections) + 5
    eventually(lambda: len(sick.backend.connections) >= more)
    assert ejected(charon, "probed", sick)
    assert spread(charon, "/probed", 12) == {b"b": 12}
    assert sample(charon.metrics(), "charon_upstream_health", service="probed", upstream=sick.backend.address) == 1


def test_what_clients_do_sets_nobody_aside(charon: CharonProcess, members: dict[str, list[Member]]) -> None:
    group = members["innocent"]
    for status in (400, 404, 429, 499):
        for member in group:
            member.status = status
        assert {ask(charon, "/innocent").status for _ in range(4)} == {status}

    def silent(connection: Connection) -> None:
        connection.read_request()
        connection.wait_for_end()

    for member in group:
        member.backend.script = silent
    mark = charon.mark()
    for _ in range(6):
        with RawClient(charon.port("web")) as client:
            waiting = sum(len(member.backend.connections) for member in group)
            client.request("GET /innocent/leaves")
            eventually(lambda n=waiting: sum(len(member.backend.connections) for member in group) > n)
    charon.wait_for_events("http_request", 6, since=mark, path="/innocent/leaves", status=499)
    assert not any(ejected(charon, "innocent", member) for member in group)
