"""Which endpoint comes next, as the backends see it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Request, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient
from tests.harness.waiting import eventually
from tests.scenarios.services import Gate, Switch, ask, serving, spread

NAMES = ("a", "b", "c")


class Member:
    """A backend that answers with its name, after ``seconds``."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.seconds = 0.0
        self.backend = ScriptedBackend()
        self.backend.serve(self._answer)

    def _answer(self, request: Request) -> bytes:
        threading.Event().wait(self.seconds)
        return http_response(200, self.name, "Connection: close")


@pytest.fixture(scope="module")
def members() -> Iterator[dict[str, Member]]:
    made = {name: Member(name) for name in (*NAMES, "idle", "busy", "quick", "slow")}
    yield made
    for member in made.values():
        member.backend.stop()
        member.backend.check()


@pytest.fixture(scope="module")
def returning() -> Iterator[Switch]:
    switch = Switch("returning")
    yield switch
    switch.close()


@pytest.fixture(scope="module")
def one(start_shared_charon: StartCharon, members: dict[str, Member], returning: Switch) -> CharonProcess:
    """One worker, which is all that an order needs."""
    at = {name: member.backend.address for name, member in members.items()}
    three = [at[name] for name in NAMES]
    returning.up()
    services: dict[str, dict[str, Any]] = {
        "turns": {"addresses": three},
        "chance": {"addresses": three, "load_balancing": "random"},
        "least": {"addresses": [at["idle"], at["busy"]], "load_balancing": "least_request"},
        "ewma": {"addresses": [at["quick"], at["slow"]], "load_balancing": "ewma"},
        "slow-start": {
            "addresses": [at["a"], returning.address],
            "load_balancing": {"slow_start": "60s"},
            "health_check": {"enabled": True, "interval": "50ms", "passive_failures": 0},
        },
    }
    config = serving(services, registry_file="registry.yaml")
    weighted = [("weighted", "round_robin"), ("weighted-chance", "random"), ("joined", "round_robin")]
    for name, algorithm in weighted:
        config["services"][name] = {"load_balancing": algorithm}
        config["listeners"][0]["routes"].append({"path_prefix": f"/{name}", "service": name})
    config["services"]["joined"] = {"load_balancing": {"slow_start": "60s"}}
    return start_shared_charon(config, registry(at, [at["a"]]))


def registry(at: dict[str, str], joined: list[str]) -> dict[str, Any]:
    uneven = {"addresses": [{"address": at["a"], "weight": 3}, {"address": at["b"], "weight": 1}]}
    return {"weighted": uneven, "weighted-chance": uneven, "joined": joined}


def bodies(charon: CharonProcess, path: str, count: int) -> list[bytes]:
    """The answers to ``count`` requests, one after the other on one connection."""
    with RawClient(charon.port("web")) as client:
        return [client.get(path).body for _ in range(count)]


def test_round_robin_takes_turns(one: CharonProcess) -> None:
    order = bodies(one, "/turns", 12)
    assert sorted(order[:3]) == [b"a", b"b", b"c"]
    assert order == order[:3] * 4


def test_round_robin_keeps_to_weights_exactly(one: CharonProcess) -> None:
    order = bodies(one, "/weighted", 40)
    assert all(Counter(order[start : start + 4]) == {b"a": 3, b"b": 1} for start in range(0, 40, 4))


def test_random_is_even_in_the_long_run(one: CharonProcess) -> None:
    found = Counter(bodies(one, "/chance", 600))
    assert set(found) == {b"a", b"b", b"c"}
    assert all(140 < count < 260 for count in found.values())  # more than five standard deviations
    assert 370 < Counter(bodies(one, "/weighted-chance", 600))[b"a"] < 530


def test_least_request_prefers_the_idle_one(one: CharonProcess, members: dict[str, Member]) -> None:
    gate = Gate()
    for name in ("idle", "busy"):
        members[name].backend.script = gate
    with RawClient(one.port("web")) as waiting:
        waiting.request("GET /least")
        gate.wait_for(1)
        busy = next(name for name in ("idle", "busy") if members[name].backend.connections)
        idle = "idle" if busy == "busy" else "busy"
        members[idle].backend.serve(http_response(200, b"idle", "Connection: close"))
        assert bodies(one, "/least", 20) == [b"idle"] * 20
        gate.open.set()
        assert waiting.read_response().status == 200


def test_ewma_avoids_the_slow_one_and_returns_to_it(one: CharonProcess, members: dict[str, Member]) -> None:
    quick, slow = members["quick"], members["slow"]
    slow.seconds = 0.06
    bodies(one, "/ewma", 4)  # each has been asked by then
    assert bodies(one, "/ewma", 20) == [b"quick"] * 20
    quick.seconds, slow.seconds = 0.3, 0.0
    bodies(one, "/ewma", 1)
    assert bodies(one, "/ewma", 20) == [b"slow"] * 20


def test_one_that_comes_back_is_given_little_at_first(one: CharonProcess, returning: Switch) -> None:
    before = Counter(bodies(one, "/slow-start", 40))
    assert before[b"returning"] == 20
    for switch, healthy in ((returning.down, False), (returning.up, True)):
        mark = one.mark()
        switch()
        one.wait_for_event("health_change", since=mark, service="slow-start", healthy=healthy)
    after = Counter(bodies(one, "/slow-start", 66))
    assert 3 <= after[b"returning"] <= 12, "a tenth of a whole share, growing over a minute"


def test_one_that_joins_is_given_little_at_first(one: CharonProcess, members: dict[str, Member]) -> None:
    at = {name: member.backend.address for name, member in members.items()}
    assert set(bodies(one, "/joined", 4)) == {b"a"}
    one.write_registry(registry(at, [at["a"], at["b"]]))
    eventually(lambda: b"b" in bodies(one, "/joined", 10))
    found = Counter(bodies(one, "/joined", 66))
    assert 3 <= found[b"b"] <= 12


# -- the same one for the same key, in all workers --------------------------------------------------------------------


@pytest.fixture
def ring(start_charon: StartCharon, members: dict[str, Member]) -> CharonProcess:
    config = {
        "listeners": [
            {
                "name": "web",
                "address": "127.0.0.1:0",
                "trusted_proxies": ["127.0.0.1"],
                "routes": [{"path_prefix": f"/{name}", "service": name} for name in HASHED],
            }
        ],
        "services": {
            name: {"load_balancing": {"algorithm": "ring_hash", "hash_on": source}} for name, source in HASHED.items()
        },
        "registry_file": "registry.yaml",
    }
    return start_charon(config, {name: at_all(members) for name in HASHED}, workers=3)


HASHED = {"header": "header:X-Tenant", "cookie": "cookie:session", "client": "client_ip", "path": "path"}


def at_all(members: dict[str, Member], without: bytes = b"") -> list[str]:
    return [members[name].backend.address for name in NAMES if name.encode() != without]


def placed(charon: CharonProcess, service: str) -> dict[int, bytes]:
    """Where each of sixty keys is served, asked of three workers as chance has it."""
    lines = {
        "header": lambda key: f"x-tenant: {key}",
        "cookie": lambda key: f"Cookie: a=b; session={key}; z=1",
        "client": lambda key: f"X-Forwarded-For: 192.0.2.{key}",
        "path": lambda key: "X-Any: thing",
    }
    found = {}
    for key in range(60):
        path = f"/{service}/{key}" if service == "path" else f"/{service}"
        found[key] = ask(charon, path, lines[service](key)).body
    return found


def test_ring_hash_stays_with_one_and_moves_only_who_must(ring: CharonProcess, members: dict[str, Member]) -> None:
    before = {service: placed(ring, service) for service in HASHED}
    for service, places in before.items():
        assert set(places.values()) == {b"a", b"b", b"c"}
        assert placed(ring, service) == places
    gone = b"b"
    address = members["b"].backend.address
    ring.write_registry({name: at_all(members, without=gone) for name in HASHED})
    eventually(lambda: address not in str(ring.admin("/api/status")[1]))
    eventually(lambda: gone not in {body for _ in range(2) for body in placed(ring, "header").values()})
    for service, places in before.items():
        after = placed(ring, service)
        assert {key: after[key] for key in places if places[key] != gone} == {
            key: place for key, place in places.items() if place != gone
        }
        assert {after[key] for key in places if places[key] == gone} == {b"a", b"c"}
    ring.write_registry({name: at_all(members) for name in HASHED})
    eventually(lambda: placed(ring, "header") == before["header"])
    assert spread(ring, "/header", 9).total() == 9, "without the field any endpoint will do"
