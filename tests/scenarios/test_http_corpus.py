"""The corpus of raw messages (tests/wire/cases) over real connections: what the parsers promise, the proxy keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Request, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import Broken, RawClient

FOLDER = Path(__file__).parent.parent / "wire" / "cases"


@dataclass(frozen=True)
class Case:
    """One pair of files with a single verdict under the default limits."""

    name: str
    data: bytes
    verdict: Any

    def __str__(self) -> str:
        return self.name


def load(kind: str, verdict: str) -> list[Case]:
    return list(read(kind, verdict))


def read(kind: str, verdict: str) -> Iterator[Case]:
    for path in sorted((FOLDER / kind).glob("*.yaml")):
        spec = yaml.safe_load(path.read_text())
        raw = path.with_suffix(".http")
        if verdict in spec and "limits" not in spec and raw.exists():
            yield Case(path.stem, raw.read_bytes(), spec[verdict])


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    return start_shared_charon(
        {
            "target_service_name": "app",
            "metrics": {"on_listeners": False},
            "listeners": [{"name": "web", "address": "127.0.0.1:0"}],
        },
        {"app": shared_backend.address},
    )


@pytest.mark.parametrize("case", load("requests", "refuse"), ids=str)
def test_a_bad_request_is_refused_and_nothing_of_it_is_served(
    charon: CharonProcess, backend: ScriptedBackend, case: Case
) -> None:
    backend.serve(http_response(200))
    with RawClient(charon.port("web")) as client:
        client.send(case.data + b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.error) == (case.verdict["status"], case.verdict["reason"])
        assert response.get("Connection") == "close" and client.ended()
    assert not backend.requests and b"behind" not in backend.received()


@pytest.mark.parametrize("case", load("requests", "accept"), ids=str)
def test_a_good_request_arrives_as_exactly_one(charon: CharonProcess, backend: ScriptedBackend, case: Case) -> None:
    backend.serve(http_response(200, b"taken"))
    with RawClient(charon.port("web")) as client:
        client.send(case.data)
        method = case.data.lstrip(b"\r\n").split(b" ")[0].decode()
        response = client.read_response(method)
        assert (response.status, response.error) == (200, None)
        if case.verdict.get("keep_alive", response.get("Connection") is None):
            assert client.get("/behind").status == 200
        else:
            assert client.ended()
    first, *others = backend.requests
    assert [other.target for other in others] in ([], ["/behind"])
    compare(first, case.verdict)


def compare(request: Request, verdict: dict[str, Any]) -> None:
    seen = {"method": request.method, "target": request.target, "content": request.body.decode("latin-1")}
    assert {key: value for key, value in seen.items() if key in verdict} == {
        key: verdict[key] for key in seen if key in verdict
    }
    if verdict.get("host"):
        assert request.values("Host") == [verdict["host"]]
    for name, value in verdict.get("fields", []):
        assert value in request.values(name)
    if "trailers" in verdict:
        assert request.trailers == [tuple(pair) for pair in verdict["trailers"]]


def answer_once(data: bytes) -> Any:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(data)
        connection.half_close()
        connection.wait_for_end()

    return script


def ask(client: RawClient, verdict: dict[str, Any]) -> str:
    method = str(verdict.get("request_method", "GET"))
    client.request(f"{method} /")
    return method


@pytest.mark.parametrize("case", load("responses", "refuse"), ids=str)
def test_a_bad_answer_is_502_or_broken(charon: CharonProcess, backend: ScriptedBackend, case: Case) -> None:
    backend.script = answer_once(case.data)
    with RawClient(charon.port("web")) as client:
        method = ask(client, case.verdict)
        response = client.read_response(method)
        assert (response.status, response.error) == (502, "upstream_malformed")
        backend.script = answer_once(http_response(200, b"behind"))
        assert client.get("/behind").body == b"behind", "the client's connection goes on"


@pytest.mark.parametrize("case", load("responses", "incomplete"), ids=str)
def test_an_incomplete_answer_is_502_or_broken(charon: CharonProcess, backend: ScriptedBackend, case: Case) -> None:
    backend.script = answer_once(case.data)
    with RawClient(charon.port("web")) as client:
        client.request("POST /", body=b"once")
        if case.verdict == "head":
            assert client.read_response().error == "upstream_reset"
        else:
            with pytest.raises((Broken, ConnectionError)):
                client.read_response()


# An answer that switches protocols needs a request that asks for it (see the upgrade scenarios).
ACCEPTED = [case for case in load("responses", "accept") if case.verdict.get("status") != 101]


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_a_good_answer_comes_as_it_is(charon: CharonProcess, backend: ScriptedBackend, case: Case) -> None:
    verdict = case.verdict
    backend.script = answer_once(case.data)
    if verdict.get("status", 200) < 200:
        backend.script = answer_once(case.data + http_response(200, b"final"))
    with RawClient(charon.port("web")) as client:
        method = ask(client, verdict)
        if verdict.get("status", 200) < 200:
            assert client.read_head().status == verdict["status"]
            assert client.read_response(method).body == b"final"
            return
        response = client.read_response(method)
        assert response.error is None
        assert response.status == verdict.get("status", response.status)
        assert response.reason == verdict.get("reason", response.reason)
        if "content" in verdict and method != "HEAD":
            assert response.body.decode("latin-1") == verdict["content"]
        for name, value in verdict.get("fields", []):
            assert value in response.values(name)
        if "trailers" in verdict:
            assert response.trailers == [tuple(pair) for pair in verdict["trailers"]]
        backend.script = answer_once(http_response(200, b"behind"))
        assert client.get("/behind").body == b"behind"
