"""Retries: when, where, with which body, how many, and when never."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import (
    Closed,
    Connection,
    Request,
    ScriptedBackend,
    chunked,
    http_response,
    refused_address,
)
from tests.harness.charon import CharonProcess, sample, total
from tests.harness.client import Broken, RawClient
from tests.harness.waiting import eventually
from tests.scenarios.services import ask, serving

RETRIES = "charon_http_retries_total"
EXHAUSTED = "charon_http_retry_budget_exhausted_total"

FINE = http_response(200, b"fine", "Connection: close")
BUDGET = {"percent": 100, "min": 1000}
"""Scenarios that are not about the budget have plenty."""


def retry(*on: str, **more: Any) -> dict[str, Any]:
    return {"on": list(on), "backoff": "5ms", "budget": BUDGET, **more}


ONE = {
    "plain": retry("reset", "connect-failure"),
    "reset": retry("reset"),
    "5xx": retry("5xx"),
    "gateway": retry("gateway-error"),
    "503": retry("503"),
    "429": retry("429"),
    "timeout": retry("timeout", per_try_timeout="100ms"),
    "timeless": retry("reset", per_try_timeout="100ms"),
    "once": retry("5xx", "reset", attempts=0),
    "small-bodies": retry("reset", max_body_bytes=1000),
    "patient": retry("reset", "5xx", backoff="100h", max_backoff="100h", attempts=1),
    "budget": {"on": ["5xx"], "backoff": "1ms", "attempts": 1},
    "breaker": retry("5xx"),
    "any": retry("reset"),
}


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, ScriptedBackend]]:
    made = {name: ScriptedBackend() for name in (*ONE, "first", "second", "listens")}
    yield made
    for backend in made.values():
        backend.stop()
        backend.check()


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, backends: dict[str, ScriptedBackend]) -> CharonProcess:
    at = {name: backend.address for name, backend in backends.items()}
    services: dict[str, dict[str, Any]] = {
        name: {"addresses": [at[name]], "retry": settings} for name, settings in ONE.items()
    }
    services["any"]["route"] = {"retry": {"methods": "any"}}
    services["patient"]["route"] = {"timeout": "1s"}
    services["breaker"]["circuit_breaker"] = {"enabled": True, "failure_threshold": 1, "open_duration": "30s"}
    services["impatient"] = {"addresses": [at["patient"]], "retry": ONE["patient"]}
    services["pair"] = {"addresses": [at["first"], at["second"]], "retry": retry("reset", "5xx")}
    services["half-dead"] = {
        "addresses": [refused_address(), at["listens"]],
        "retry": {"on": ["refused"], "budget": {"percent": 0, "min": 0}},
    }
    services["half-dead-no"] = {"addresses": [refused_address(), at["listens"]], "retry": retry("reset", attempts=0)}
    services["dead"] = {"addresses": [refused_address()], "retry": {"backoff": "100h", "max_backoff": "100h"}}
    return start_shared_charon(serving(services), workers=2)


class Fails:
    """A backend's script: the first ``times`` requests fail as ``how`` has it, those after them are fine."""

    def __init__(self, how: Callable[[Connection], None] | bytes, times: int = 1) -> None:
        self.how = how
        self.times = times
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def __call__(self, connection: Connection) -> None:
        try:
            request = connection.read_request()
        except Closed:
            return
        with self._lock:
            self.requests.append(request)
            fails = len(self.requests) <= self.times
        if not fails:
            connection.send(FINE)
        elif isinstance(self.how, bytes):
            connection.send(self.how)
        else:
            self.how(connection)


def silent(connection: Connection) -> None:
    connection.wait_for_end()


def answer(status: int) -> bytes:
    return http_response(status, b"own words", "Connection: close")


RESET = Connection.reset


def failing(how: str, times: int = 1) -> Fails:
    """``reset``, ``close``, ``silent``, ``half a line``, or a status to answer with."""
    scripts = {"reset": RESET, "close": Connection.close, "silent": silent, "half a line": b"HTTP/1.1 2"}
    return Fails(scripts[how] if how in scripts else answer(int(how)), times)


# -- when -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "how", "status", "tries"),
    [
        ("reset", "reset", 200, 2),
        ("reset", "close", 200, 2),
        ("reset", "503", 503, 1),
        ("reset", "half a line", 502, 1),
        ("5xx", "500", 200, 2),
        ("5xx", "503", 200, 2),
        ("5xx", "429", 429, 1),
        ("5xx", "reset", 502, 1),
        ("gateway", "502", 200, 2),
        ("gateway", "504", 200, 2),
        ("gateway", "500", 500, 1),
        ("503", "503", 200, 2),
        ("503", "500", 500, 1),
        ("429", "429", 200, 2),
        ("429", "404", 404, 1),
        ("timeout", "silent", 200, 2),
        ("timeless", "silent", 504, 1),
        ("once", "reset", 502, 1),
        ("once", "500", 500, 1),
    ],
)
def test_what_is_tried_again(
    charon: CharonProcess,
    backends: dict[str, ScriptedBackend],
    service: str,
    how: str,
    status: int,
    tries: int,
) -> None:
    script = backends[service].script = failing(how)
    response = ask(charon, f"/{service}")
    assert (response.status, len(script.requests)) == (status, tries)
    if how == str(status):
        assert (response.body, response.error) == (b"own words", None), "an upstream's answer passes as it is"


@pytest.mark.parametrize(
    ("method", "tries"),
    [("GET", 2), ("HEAD", 2), ("OPTIONS", 2), ("TRACE", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)],
)
def test_only_idempotent_methods_when_anything_was_sent(
    charon: CharonProcess, backends: dict[str, ScriptedBackend], method: str, tries: int
) -> None:
    script = backends["plain"].script = Fails(RESET)
    before = sample(charon.metrics(), RETRIES, method=method)
    response = ask(charon, "/plain", method=method)
    assert [request.method for request in script.requests] == [method] * tries
    assert response.status == (200 if tries == 2 else 502)
    assert sample(charon.metrics(), RETRIES, method=method) == before + tries - 1


def test_a_post_that_was_answered_is_never_repeated(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    script = backends["5xx"].script = Fails(answer(503))
    response = ask(charon, "/5xx", method="POST", body=b"pay 5")
    assert (response.status, response.body, len(script.requests)) == (503, b"own words", 1)


def test_a_post_that_reached_nobody_goes_elsewhere(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    script = backends["listens"].script = Fails(b"", times=0)
    body = random.Random(4).randbytes(200_000)  # more than is kept: none of it was sent yet
    mark = charon.mark()
    for _ in range(8):
        assert ask(charon, "/half-dead", method="POST", body=body).status == 200
    assert [request.body == body for request in script.requests] == [True] * 8
    lines = charon.wait_for_events("http_request", 8, since=mark, path="/half-dead")
    assert 1 in {line["retries"] for line in lines} <= {0, 1}, "some met the dead one first"
    assert total(charon.metrics(), EXHAUSTED, service="half-dead") == 0
    statuses = {ask(charon, "/half-dead-no", method="POST", body=b"x").status for _ in range(8)}
    assert statuses == {200, 502}, "without further tries it fails"


def test_where_all_refuse_nothing_is_waited_for(charon: CharonProcess) -> None:
    assert ask(charon, "/dead").error == "connect_refused"


def test_any_method_where_the_route_says_so(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    script = backends["any"].script = Fails(RESET)
    assert ask(charon, "/any", method="POST", body=b"harmless").status == 200
    assert [request.body for request in script.requests] == [b"harmless"] * 2


def test_nothing_is_repeated_once_a_byte_of_the_answer_went_out(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    def half(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        connection.half_close()
        connection.wait_for_end()

    script = backends["plain"].script = Fails(half)
    with pytest.raises(Broken):
        ask(charon, "/plain")
    assert len(script.requests) == 1


# -- where and how often ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "500"])
def test_another_endpoint_comes_first(charon: CharonProcess, backends: dict[str, ScriptedBackend], how: str) -> None:
    sick = backends["first"].script = failing(how, times=1000)
    well = backends["second"].script = Fails(b"", times=0)
    mark = charon.mark()
    assert {ask(charon, "/pair").status for _ in range(10)} == {200}
    assert len(well.requests) == 10
    lines = charon.wait_for_events("http_request", 10, since=mark, path="/pair")
    assert sum(line["retries"] for line in lines) == len(sick.requests) > 0
    assert {line["upstream"] for line in lines} == {backends["second"].address}
    errors = charon.wait_for_events("upstream_error", len(sick.requests), since=mark, service="pair")
    assert len(errors) == len(sick.requests)
    assert {(line["upstream"], line["tries"]) for line in errors} == {(backends["first"].address, 1)}


def test_both_fail_then_the_first_again_up_to_the_attempts(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    scripts = [Fails(answer(500), times=1000), Fails(answer(500), times=1000)]
    backends["first"].script, backends["second"].script = scripts
    response = ask(charon, "/pair")
    assert (response.status, response.body, response.error) == (500, b"own words", None)
    assert sorted(len(script.requests) for script in scripts) == [1, 2]


def test_when_all_tries_fail_the_last_failure_is_told(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    script = backends["plain"].script = Fails(RESET, times=1000)
    mark = charon.mark()
    assert ask(charon, "/plain/all").error == "upstream_reset"
    assert len(script.requests) == 3
    line = charon.wait_for_event("http_request", since=mark, path="/plain/all")
    assert (line["status"], line["reason"], line["retries"]) == (502, "upstream_reset", 2)


def test_an_answer_is_not_dropped_for_a_breaker_that_it_has_opened(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    script = backends["breaker"].script = Fails(answer(500), times=1000)
    response = ask(charon, "/breaker")
    assert (response.status, response.body, response.error) == (500, b"own words", None)
    assert len(script.requests) == 1
    assert ask(charon, "/breaker").error == "circuit_open"


def test_the_budget_bounds_what_the_upstream_gets(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    script = backends["budget"].script = Fails(answer(503), times=10_000)

    def some(_: int) -> None:
        for _ in range(25):
            assert ask(charon, "/budget").status == 503

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, range(4)))
    retries = len(script.requests) - 100
    # A fifth of a hundred, and three; two workers that decide at the same moment may go over by one.
    assert 20 <= retries <= 24
    assert total(charon.metrics(), EXHAUSTED, service="budget") == 100 - retries


# -- when no longer ---------------------------------------------------------------------------------------------------


def test_a_client_that_left_ends_the_wait(charon: CharonProcess, backends: dict[str, ScriptedBackend]) -> None:
    script = backends["patient"].script = Fails(RESET, times=1000)
    mark = charon.mark()
    with RawClient(charon.port("web")) as client:
        client.request("GET /impatient/gone")
        eventually(lambda: script.requests)
        client.reset()
    line = charon.wait_for_event("http_request", since=mark, path="/impatient/gone")
    assert (line["status"], line["reason"]) == (499, "client_abort")
    assert len(script.requests) == 1


@pytest.mark.parametrize(("how", "told"), [("reset", (502, "upstream_reset")), ("503", (503, None))])
def test_no_wait_is_begun_that_the_deadline_would_cut(
    charon: CharonProcess, backends: dict[str, ScriptedBackend], how: str, told: tuple[int, str | None]
) -> None:
    script = backends["patient"].script = failing(how, times=1000)
    response = ask(charon, "/patient")
    assert (response.status, response.error) == told
    assert len(script.requests) == 1


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 20_000, 65_536])
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_body_is_sent_again_byte_for_byte(
    charon: CharonProcess, backends: dict[str, ScriptedBackend], size: int, coding: str
) -> None:
    script = backends["plain"].script = Fails(RESET)
    body = random.Random(size).randbytes(size)
    with RawClient(charon.port("web")) as client:
        if coding == "length":
            client.request("PUT /plain", body=body)
        else:
            client.request("PUT /plain", "Transfer-Encoding: chunked")
            cut = [body[start : start + 999] for start in range(0, size - 1000, 999)] or []
            client.send(chunked(*cut, body[len(cut) * 999 :]))
        response = client.read_response()
    if coding == "chunked" and size == 65_536:
        # What is kept is what is sent, with its framing: this is just too much.
        assert (response.status, len(script.requests)) in ((502, 1), (200, 2))
    else:
        assert response.status == 200
        assert len(script.requests) == 2
    assert all(request.body == body for request in script.requests)


def test_a_body_that_comes_slowly_goes_on_where_it_was(
    charon: CharonProcess, backends: dict[str, ScriptedBackend]
) -> None:
    pieces = [random.Random(seed).randbytes(3000) for seed in range(6)]
    taken = threading.Event()
    second: list[bytes] = []

    def script(connection: Connection) -> None:
        head = connection.read_head()
        assert head.method == "PUT"
        if not taken.is_set():
            connection.recv_exactly(sum(map(len, pieces[:3])))
            connection.reset()
            taken.set()
            return
        second.append(connection.recv_exactly(sum(map(len, pieces))))
        connection.send(FINE)

    backends["plain"].script = script
    with RawClient(charon.port("web")) as client:
        client.request("PUT /plain/slow", f"Content-Length: {sum(map(len, pieces))}")
        for piece in pieces[:3]:
            client.send(piece)
        assert taken.wait(10)
        for piece in pieces[3:]:
            client.send(piece)
        assert client.read_response().status == 200
    assert second == [b"".join(pieces)]


@pytest.mark.parametrize(("size", "tries"), [(1000, 2), (1001, 1), (5000, 1), (300_000, 1)])
def test_a_body_larger_than_what_is_kept_is_sent_once(
    charon: CharonProcess, backends: dict[str, ScriptedBackend], size: int, tries: int
) -> None:
    script = backends["small-bodies"].script = Fails(RESET)
    response = ask(charon, "/small-bodies", method="PUT", body=bytes(size))
    assert (response.status, len(script.requests)) == (200 if tries == 2 else 502, tries)
