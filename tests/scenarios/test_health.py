"""Active health checks: who is probed, how, and what traffic sees of it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Request, ScriptedBackend, answering, http_response, refused_address
from tests.harness.charon import CharonProcess, sample, total
from tests.harness.waiting import eventually
from tests.scenarios.services import Gate, Switch, ask, ask_at_once, by_path, serving, spread, statuses

HEALTH = "charon_upstream_health"
QUICK = {"interval": "60ms", "timeout": "250ms", "passive_failures": 0}
HTTP = {**QUICK, "type": "http"}


class Probed:
    """A backend's answers to probes, in order; the last one from then on. Other requests get 200."""

    def __init__(self, *statuses: int) -> None:
        self.left = deque(statuses)
        self.probes: list[Request] = []

    def __call__(self, request: Request) -> bytes:
        if request.get("User-Agent") != "charon-health":
            return by_path(request)
        self.probes.append(request)
        return http_response(self.left.popleft() if len(self.left) > 1 else self.left[0], b"", "Connection: close")


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, ScriptedBackend]]:
    made = {name: ScriptedBackend() for name in ("alive", "half-up", "asks", "rise-fall", "other-rise", "hangs")}
    for backend in made.values():
        backend.serve(by_path)
    yield made
    for backend in made.values():
        backend.stop()
        backend.check()


@pytest.fixture(scope="module")
def recovering() -> Iterator[Switch]:
    switch = Switch()
    yield switch
    switch.close()


ASKS = Probed(204)
# What the thresholds make of it: 2 in a row are needed for down, 3 for up.
RISE_FALL = Probed(200, 500, 200, 500, 500, 200, 200, 503, 200, 200, 200)


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, backends: dict[str, ScriptedBackend], recovering: Switch) -> CharonProcess:
    at = {name: backend.address for name, backend in backends.items()}
    backends["asks"].serve(ASKS)
    backends["rise-fall"].serve(RISE_FALL)
    backends["hangs"].script = Gate()
    services = {
        "alive": {"addresses": [at["alive"]], "health_check": QUICK},
        "dead": {"addresses": [refused_address(), refused_address()], "health_check": QUICK},
        "half": {"addresses": [refused_address(), at["half-up"]], "health_check": QUICK},
        "asks": {
            "addresses": [at["asks"]],
            "health_check": {**HTTP, "path": "/healthz", "host": "health.test", "expected_status": ["200-204", 404]},
        },
        "thresholds": {
            "addresses": [at["rise-fall"]],
            "health_check": {**HTTP, "unhealthy_threshold": 2, "healthy_threshold": 3},
        },
        "hangs": {"addresses": [at["hangs"]], "health_check": {**HTTP, "timeout": "100ms"}},
        # As nobody has configured it: every 5 seconds.
        "recovering": {"addresses": [recovering.address], "health_check": {"passive_failures": 0}},
    }
    return start_shared_charon(serving(services, health_check={}), workers=3)


def health(charon: CharonProcess, service: str, upstream: str) -> float | None:
    """The gauge; None while there is none."""
    return charon.metrics().get((HEALTH, frozenset({("service", service), ("upstream", upstream)})))


def test_everybody_is_probed_from_the_start_without_any_traffic(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    lines = charon.wait_for_events("health_change", 2, service="dead")
    assert {(line["healthy"], line["by"], line["level"]) for line in lines} == {(False, "probe", "warning")}
    assert all("refused" in line["why"] for line in lines)
    eventually(lambda: health(charon, "alive", backends["alive"].address) == 1)
    assert [health(charon, "dead", line["upstream"]) for line in lines] == [0, 0]
    assert total(charon.metrics(), "charon_http_requests_total") == 0
    told = json.loads(charon.admin("/api/status")[1])["services"]
    assert [endpoint["healthy"] for endpoint in told["dead"]] == [False, False]
    assert [endpoint["healthy"] for endpoint in told["alive"]] == [True]


def test_when_all_are_down_it_is_said_at_once(charon: CharonProcess) -> None:
    charon.wait_for_events("health_change", 2, service="dead", healthy=False)
    answers = ask_at_once(charon, "/dead", 12)  # all workers know
    assert statuses(answers) == {503: 12}
    assert {(answer.error, answer.get("Retry-After")) for answer in answers} == {("no_healthy_endpoint", "1")}
    assert not [line for line in charon.log_lines("upstream_error") if line["service"] == "dead"]


def test_one_that_is_down_gets_nothing(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    charon.wait_for_event("health_change", service="half", healthy=False)
    assert spread(charon, "/half", 20) == {b"as asked": 20}
    assert not [line for line in charon.log_lines("upstream_error") if line["service"] == "half"]


def test_an_http_probe_asks_as_configured_and_takes_what_is_expected(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["asks"]
    eventually(lambda: health(charon, "asks", backend.address) == 1)
    for status, healthy in ((500, False), (404, True), (302, False), (200, True)):
        ASKS.left.append(status)
        eventually(lambda healthy=healthy: health(charon, "asks", backend.address) == healthy)
    probe = ASKS.probes[-1]
    assert (probe.method, probe.target, probe.get("Host")) == ("GET", "/healthz", "health.test")
    assert probe.get("Connection") == "close"
    whys = [line["why"] for line in charon.wait_for_events("health_change", 4, service="asks")]
    assert whys == ["status 500", "ok", "status 302", "ok"]


def test_rise_and_fall_take_as_many_probes_as_configured(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    charon.wait_for_event("health_change", service="thresholds", healthy=True)
    more = len(RISE_FALL.probes) + 3
    eventually(lambda: len(RISE_FALL.probes) >= more)
    lines = [line for line in charon.log_lines("health_change") if line["service"] == "thresholds"]
    assert [(line["healthy"], line["why"]) for line in lines] == [(False, "status 500"), (True, "ok")]
    assert ask(charon, "/thresholds").status == 200


def test_one_that_takes_connections_and_says_nothing_is_down(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    line = charon.wait_for_event("health_change", service="hangs")
    assert (line["healthy"], line["why"]) == (False, "no answer in 0.1 s")
    assert ask(charon, "/hangs").error == "no_healthy_endpoint"
    gate = backends["hangs"].script
    assert isinstance(gate, Gate)
    gate.open.set()
    backends["hangs"].script = answering(http_response(200, b"awake", "Connection: close"))
    eventually(lambda: ask(charon, "/hangs").status == 200)


def test_a_return_is_seen_within_two_seconds(charon: CharonProcess, recovering: Switch) -> None:
    charon.wait_for_event("health_change", service="recovering", healthy=False)
    mark = charon.mark()
    recovering.up()
    charon.wait_for_event("health_change", since=mark, service="recovering", healthy=True, timeout=2.0)
    assert statuses(ask_at_once(charon, "/recovering", 8)) == {200: 8}
    assert health(charon, "recovering", recovering.address) == 1


def test_who_leaves_is_probed_no_more_and_its_series_go(start_charon: StartCharon) -> None:
    with ScriptedBackend() as stays, ScriptedBackend() as leaves:
        dead = refused_address()
        config = {
            "listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_name": "crew"}],
            "health_check": QUICK,
            "circuit_breaker": {},
            "registry_file": "registry.yaml",
        }
        charon = start_charon(config, {"crew": [stays.address, leaves.address], "gone": dead}, workers=2)
        for backend in (stays, leaves):
            eventually(lambda backend=backend: health(charon, "crew", backend.address) == 1)
        eventually(lambda: health(charon, "gone", dead) == 0)
        charon.write_registry({"crew": [stays.address]})
        eventually(lambda: health(charon, "crew", leaves.address) is None)
        metrics = charon.metrics()
        left = {value for _, labels in metrics for name, value in labels if name == "upstream"}
        assert left == {stays.address}
        assert {value for _, labels in metrics for name, value in labels if name == "service"} == {"crew"}
        probed = 0
        for _ in range(2):  # the first round is for a probe that was under way
            probed = len(leaves.connections)
            more = len(stays.connections) + 4
            eventually(lambda more=more: len(stays.connections) >= more)
        assert len(leaves.connections) == probed
        charon.write_registry({"crew": [stays.address, leaves.address]})
        eventually(lambda: sample(charon.metrics(), HEALTH, service="crew", upstream=leaves.address) == 1)
        eventually(lambda: len(leaves.connections) > probed)
