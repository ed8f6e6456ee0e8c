"""The API is what its OpenAPI document says: every path, every answer, whatever is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from charon.admin import openapi
from charon.admin.permission import PEER, Peer
from tests.admin.world import World

ROOT = Path(__file__).resolve().parents[2]
ENDPOINT = {
    "endpoint": "localhost:9091", "healthy": None, "breaker": "open", "ejected": False, "in_flight": 1,
    "requests_per_second": 1.5, "errors_per_second": 0.5, "error_rate": 0.3,
    "latency_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0},
}  # fmt: skip
"""A whole state is looked at in tests/scenarios/test_admin.py, where there is a real one."""


class AsOwner:
    """The application as its server calls it, for the socket's owner."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ[PEER] = Peer(0)
        return self._world.app(environ, start_response)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("admin"))
    world.state = {"services": {"web": [ENDPOINT], "empty": []}, "listeners": [], "workers": [], "certificates": []}
    yield world
    world.sink.close()


@pytest.fixture(scope="module")
def schema(world: World) -> Any:
    return schemathesis.openapi.from_wsgi("/api/openapi.json", AsOwner(world))


CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    negative_data_rejection, unsupported_method,
]  # fmt: skip

BOUNDS = settings(
    max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate], database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

OPERATIONS = [
    (method.upper(), path) for path, operations in openapi.document()["paths"].items() for method in operations
]


@pytest.mark.parametrize(("method", "path"), [pair for pair in OPERATIONS if pair[1] != "/api/status"])
def test_whatever_is_sent_gets_an_answer_that_is_described(schema: Any, method: str, path: str) -> None:
    operation = schema[path][method]
    for mode in GenerationMode:

        @BOUNDS
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        try:
            send()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "there is always something right to send"


def test_every_path_is_described_and_every_description_answered(world: World) -> None:
    described = openapi.document()["paths"]
    gets = {path for path, operations in described.items() if "get" in operations}
    posts = {path for path, operations in described.items() if "post" in operations}
    assert gets == set(world.app.reads)
    assert posts == set(world.app.writes)


def test_the_manual_is_up_to_date() -> None:
    for name, text in openapi.generated().items():
        assert (ROOT / name).read_text() == text, "run scripts/generate"
