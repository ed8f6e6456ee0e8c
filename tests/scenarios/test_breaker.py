"""Circuit breakers with several workers: one breaker for each endpoint in the whole appliance."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, ScriptedBackend, chunked, http_response, refused_address
from tests.harness.charon import CharonProcess
from tests.harness.client import Broken, RawClient
from tests.harness.waiting import eventually
from tests.scenarios.services import (
    Gate,
    ask,
    ask_at_once,
    breaker_gauge,
    by_path,
    serving,
    statuses,
    transitions,
    worker_of,
)

NO_RETRY = {"attempts": 0}
LONG = {"failure_threshold": 3, "open_duration": "30s"}
SHORT = {"failure_threshold": 2, "open_duration": "300ms"}

BREAKERS = {
    "opens": LONG,
    "crowd": LONG,
    "in-a-row": LONG,
    "one-trial": SHORT,
    "reopens": SHORT,
    "killed": SHORT,
    "left": SHORT,
    "cut-trial": SHORT,
    "long-trial": SHORT,
    "innocent": {**LONG, "failure_threshold": 1},
    "own-faults": {**LONG, "failure_threshold": 1},
    "truncates": LONG,
    "chunks-cut": LONG,
    "resets": LONG,
    "malformed": LONG,
    "slow": LONG,
    "rate": {"failure_threshold": 1000, "open_duration": "30s", "error_rate": "50%", "min_requests": 10},
    "off": {"enabled": False},
    **{f"status-{status}": LONG for status in (500, 502, 503, 504)},
}


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, ScriptedBackend]]:
    made = {name: ScriptedBackend() for name in (*BREAKERS, "pair-a", "pair-b")}
    for backend in made.values():
        backend.serve(by_path)
    yield made
    for backend in made.values():
        backend.stop()
        backend.check()


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, backends: dict[str, ScriptedBackend]) -> CharonProcess:
    services = {
        name: {"addresses": [backends[name].address], "circuit_breaker": breaker, "retry": NO_RETRY}
        for name, breaker in BREAKERS.items()
    }
    services["slow"]["timeouts"] = {"response_headers": "100ms"}
    services["pair"] = {
        "addresses": [backends["pair-a"].address, backends["pair-b"].address],
        "circuit_breaker": {"failure_threshold": 2, "open_duration": "20s"},
        "retry": NO_RETRY,
    }
    services["refused"] = {"addresses": [refused_address()], "circuit_breaker": LONG, "retry": NO_RETRY}
    return start_shared_charon(serving(services, circuit_breaker={}), workers=4)


def trip(charon: CharonProcess, name: str, failures: int = 2) -> None:
    assert [ask(charon, f"/{name}/fail").status for _ in range(failures)] == [500] * failures
    assert ask(charon, f"/{name}").error == "circuit_open"


# -- opening ----------------------------------------------------------------------------------------------------------


def test_it_opens_after_exactly_the_threshold_and_spares_the_backend(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["opens"]
    mark = charon.mark()
    answers = [ask(charon, "/opens/fail") for _ in range(10)]
    assert [answer.status for answer in answers] == [500] * 3 + [503] * 7
    assert len(backend.requests) == 3
    for refused in answers[3:]:
        assert refused.error == "circuit_open"
        assert 25 <= int(refused.get("Retry-After") or 0) <= 30
    assert transitions(charon, backend) == {"open": 1}
    assert breaker_gauge(charon, backend) == 1
    charon.wait_for_event("circuit_breaker", since=mark, service="opens", upstream=backend.address, state="open")
    lines = charon.wait_for_events("http_request", 10, since=mark, path="/opens/fail")
    told = [(line["status"], line.get("reason"), line["upstream"]) for line in lines]
    assert sorted(told, key=str) == [(500, None, backend.address)] * 3 + [(503, "circuit_open", "none")] * 7
    assert len([line for line in charon.log_lines("circuit_breaker") if line["service"] == "opens"]) == 1


def test_failures_that_come_together_open_it_once(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    backend = backends["crowd"]
    gate = backend.script = Gate(http_response(500, b"all of you"))
    with ThreadPoolExecutor(1) as pool:
        crowd = pool.submit(ask_at_once, charon, "/crowd", 24)
        gate.wait_for(24)
        gate.open.set()
        assert statuses(crowd.result()) == {500: 24}
    assert statuses(ask_at_once(charon, "/crowd", 8)) == {503: 8}
    assert len(gate.requests) == 24
    assert transitions(charon, backend) == {"open": 1}


def test_only_failures_in_a_row_count(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    words = ["fail", "fail", "ok", "fail", "fail", "ok", "fail", "fail", "fail", "ok"]
    answers = [ask(charon, f"/in-a-row/{word}").status for word in words]
    assert answers == [500, 500, 200, 500, 500, 200, 500, 500, 500, 503]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_upstreams_own_error_is_a_failure(
    charon: CharonProcess, backends: dict[str, ScriptedBackend], status: int
) -> None:
    answers = [ask(charon, f"/status-{status}/{status}") for _ in range(5)]
    assert [(answer.status, answer.error) for answer in answers] == [(status, None)] * 3 + [(503, "circuit_open")] * 2


def test_a_refused_connection_is_a_failure(charon: CharonProcess) -> None:
    errors = [ask(charon, "/refused").error for _ in range(5)]
    assert errors == ["connect_refused"] * 3 + ["circuit_open"] * 2


def cut(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")


def cut_chunks(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.send_chunk(b"only this")


def reset(connection: Connection) -> None:
    connection.read_request()
    connection.reset()


def malformed(connection: Connection) -> None:
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")


def silent(connection: Connection) -> None:
    connection.read_request()
    connection.wait_for_end()


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        ("truncates", cut, "upstream_truncated"),
        ("chunks-cut", cut_chunks, "upstream_truncated"),
        ("resets", reset, "upstream_reset"),
        ("malformed", malformed, "upstream_malformed"),
        ("slow", silent, "response_timeout"),
    ],
)
def test_a_broken_or_missing_answer_is_a_failure(
    charon: CharonProcess, backends: dict[str, ScriptedBackend], name: str, script: object, reason: str
) -> None:
    backend = backends[name]
    backend.script = script  # type: ignore[assignment]
    mark = charon.mark()
    for _ in range(3):
        try:
            assert ask(charon, f"/{name}").error == reason
        except Broken:
            assert reason == "upstream_truncated"
    charon.wait_for_events("http_request", 3, since=mark, path=f"/{name}", reason=reason)
    assert ask(charon, f"/{name}").error == "circuit_open"
    assert len(backend.connections) == 3
    assert transitions(charon, backend) == {"open": 1}


def test_what_clients_do_never_counts(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    backend = backends["innocent"]
    for status in (400, 401, 404, 408, 429, 499):
        assert ask(charon, f"/innocent/{status}").status == status
    backend.script = silent
    mark = charon.mark()
    for end in (RawClient.reset, RawClient.close):
        with RawClient(charon.port("web")) as client:
            count = len(backend.connections)
            client.request("GET /innocent/leaves")
            backend.wait_for_connections(count + 1)
            eventually(lambda: backend.connections[-1].received)
            end(client)
    charon.wait_for_events("http_request", 2, since=mark, path="/innocent/leaves", reason="client_abort")
    backend.serve(by_path)
    assert ask(charon, "/innocent").status == 200
    assert transitions(charon, backend) == {}


def test_a_client_that_leaves_amid_the_answer_does_not_count(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["own-faults"]

    def endless(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.send_chunk(bytes(65_536))

    backend.script = endless
    mark = charon.mark()
    with RawClient(charon.port("web")) as client:
        client.request("GET /own-faults/endless")
        assert client.recv_exactly(100_000)
    charon.wait_for_event("http_request", since=mark, path="/own-faults/endless", reason="client_abort")
    backend.script = silent
    with RawClient(charon.port("web")) as client:  # a body that is no valid message any more
        client.request("POST /own-faults/garbled", "Transfer-Encoding: chunked")
        client.send(b"3\r\nabc\r\n")
        eventually(lambda: b"abc" in backend.connections[-1].received)
        client.send(b"nonsense\r\n")
        assert client.read_response().error == "bad_chunk"
    backend.serve(by_path)
    assert ask(charon, "/own-faults").status == 200
    assert transitions(charon, backend) == {}


def test_a_share_of_failures_opens_it_too(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    words = ["fail", "ok"] * 8
    answers = [ask(charon, f"/rate/{word}") for word in words]
    # The tenth answer is a good one; with the eleventh more than half of eleven have failed.
    assert [answer.status for answer in answers] == [500, 200] * 5 + [500] + [503] * 5
    assert len(backends["rate"].requests) == 11


def test_switched_off_there_is_none(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    assert [ask(charon, "/off/fail").status for _ in range(10)] == [500] * 10
    assert transitions(charon, backends["off"]) == {}


def test_with_two_endpoints_the_other_takes_over_until_both_are_open(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    sick, well = backends["pair-a"], backends["pair-b"]
    sick.serve(http_response(500, b"sick", "Connection: close"))
    well.serve(http_response(200, b"well", "Connection: close"))
    answers = [ask(charon, "/pair").status for _ in range(30)]
    assert answers.count(500) == 2 == len(sick.requests)
    assert answers.count(200) == 28
    well.script = sick.script = reset
    eventually(lambda: ask(charon, "/pair").error == "circuit_open")
    reached = len(sick.connections) + len(well.connections)
    refused = ask_at_once(charon, "/pair", 12)
    assert {answer.error for answer in refused} == {"circuit_open"}
    assert all(1 <= int(answer.get("Retry-After") or 0) <= 20 for answer in refused)
    assert len(sick.connections) + len(well.connections) == reached


# -- the trial --------------------------------------------------------------------------------------------------------


def test_exactly_one_trial_however_many_ask(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    backend = backends["one-trial"]
    trip(charon, "one-trial")
    gate = backend.script = Gate()
    stop = threading.Event()
    made = [0] * 16
    seen: list[set[str | None]] = [set() for _ in made]

    def keep_asking(number: int) -> None:
        while not stop.is_set():
            seen[number].add(ask(charon, "/one-trial").error)
            made[number] += 1

    with ThreadPoolExecutor(len(made)) as pool:
        askers = [pool.submit(keep_asking, number) for number in range(len(made))]
        try:
            gate.wait_for(1)
            then = list(made)
            eventually(lambda: sum(now >= before + 4 for now, before in zip(made, then, strict=True)) == len(made) - 1)
            assert len(gate.requests) == 1
            assert breaker_gauge(charon, backend) == 2
        finally:
            gate.open.set()
            eventually(lambda: all(None in errors for errors in seen))
            stop.set()
        for asker in askers:
            asker.result()
    assert set.union(*seen) == {None, "circuit_open"}
    assert transitions(charon, backend) == {"open": 1, "half_open": 1, "closed": 1}
    assert breaker_gauge(charon, backend) == 0


def test_a_trial_that_fails_opens_it_again(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    backend = backends["reopens"]
    trip(charon, "reopens")
    eventually(lambda: ask(charon, "/reopens/fail").status == 500)
    assert ask(charon, "/reopens").error == "circuit_open"
    assert len(backend.requests) == 3
    assert transitions(charon, backend) == {"open": 2, "half_open": 1}
    eventually(lambda: ask(charon, "/reopens").status == 200)
    assert transitions(charon, backend) == {"open": 2, "half_open": 2, "closed": 1}


def start_trial(charon: CharonProcess, path: str, gate: Gate) -> RawClient:
    """A client whose request is the trial; the backend has it and does not answer."""

    def tries() -> RawClient | None:
        client = RawClient(charon.port("web"))
        client.request(f"GET {path}")
        if gate.arrived.acquire(timeout=0.05):
            return client
        assert client.read_response().error == "circuit_open"
        client.close()
        return None

    client = eventually(tries)
    assert client is not None
    return client


def test_a_client_that_leaves_hands_the_trial_on(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    backend = backends["left"]
    trip(charon, "left")
    gate = backend.script = Gate()
    start_trial(charon, "/left", gate).reset()
    backend.serve(by_path)
    eventually(lambda: ask(charon, "/left").status == 200)
    gate.open.set()
    assert transitions(charon, backend) == {"open": 1, "half_open": 1, "closed": 1}


def test_a_worker_killed_during_the_trial_hands_it_on(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["killed"]
    trip(charon, "killed")
    before = transitions(charon, backend)
    gate = backend.script = Gate()
    with start_trial(charon, "/killed", gate) as client:
        assert ask(charon, "/killed").error == "circuit_open"
        backend.serve(by_path)
        worker = worker_of(backend.connections[-1].sock, charon.worker_pids())
        os.kill(worker, signal.SIGKILL)
        with pytest.raises((ConnectionError, Broken)):
            client.read_response()
    charon.wait_for_event("worker_died", pid=worker)
    eventually(lambda: ask(charon, "/killed").status == 200)
    gate.open.set()
    assert before == {"open": 1}
    after = transitions(charon, backend)
    assert after["closed"] == 1  # half-open was told by the one that died
    eventually(lambda: worker not in charon.worker_pids())


def test_a_trial_whose_answer_is_cut_off_opens_it_again(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["cut-trial"]
    trip(charon, "cut-trial")
    backend.script = cut

    def cut_off() -> bool:
        try:
            return ask(charon, "/cut-trial").error != "circuit_open"
        except Broken:
            return True

    eventually(cut_off)
    eventually(lambda: transitions(charon, backend) == {"open": 2, "half_open": 1})
    backend.serve(by_path)
    eventually(lambda: ask(charon, "/cut-trial").status == 200)


def test_a_trial_that_streams_for_long_does_not_hold_up_the_others(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    backend = backends["long-trial"]
    trip(charon, "long-trial")
    finish = threading.Event()

    def stream(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.send_chunk(b"first")
        assert finish.wait(10)
        connection.send(chunked(b"last"))

    backend.script = stream

    def begun() -> RawClient | None:
        client = RawClient(charon.port("web"))
        client.request("GET /long-trial")
        head = client.read_head()
        if head.status == 200:
            return client
        client.close()
        return None

    client = eventually(begun)
    assert client is not None
    with client:
        backend.serve(by_path)
        eventually(lambda: ask(charon, "/long-trial").status == 200)
        finish.set()
        assert client.recv_until(b"0\r\n\r\n").endswith(b"last\r\n0\r\n\r\n")
    assert transitions(charon, backend) == {"open": 1, "half_open": 1, "closed": 1}
