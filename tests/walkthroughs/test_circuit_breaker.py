"""Walk-through: ten failing requests open the breaker of the only backend; it tries once, and closes."""

from __future__ import annotations

import json

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess
from tests.harness.waiting import eventually
from tests.walkthroughs.support import typed

CONFIG = """
listen_port: "0"
target_service_name: "http-backend"
registry_file: "registry.yaml"
workers: 4

# Circuit breaker settings
circuit_breaker:
  failure_threshold: 5
  open_duration: "1s"

# Rate limiting settings
rate_limit:
  requests_per_second: 100
  burst_size: 200
  routes: []  # empty = all routes
"""

REGISTRY = """
services:
  http-backend: localhost:{port}
"""

NAME = "charon_circuit_breaker_transitions_total"


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, http_backend: Program) -> CharonProcess:
    return start_shared_charon(CONFIG, REGISTRY.format(port=http_backend.port), command=())


def transitions(url: str) -> dict[str, int]:
    """What ``curl -s .../metrics | grep`` shows, by state."""
    lines = typed(f"curl -s {url}/metrics | grep '^{NAME}{{' || true").splitlines()
    found = {}
    for line in lines:
        labels, _, value = line.rpartition(" ")
        found[labels.partition('to_state="')[2].partition('"')[0]] = int(float(value))
    return found


def test_ten_failures_then_a_trial_then_closed(charon: CharonProcess, http_backend: Program) -> None:
    url = f"http://localhost:{charon.port()}"
    seen = typed(f"for i in 1 2 3 4 5 6 7 8 9 10; do curl -s -o /dev/null -w '%{{http_code}}\\n' {url}/fail; done")
    assert seen.split() == ["500"] * 5 + ["503"] * 5
    assert transitions(url) == {"open": 1}

    refused = typed(f"curl -si {url}/hello").replace("\r", "")
    assert refused.startswith("HTTP/1.1 503 Service Unavailable\n")
    assert "X-Charon-Error: circuit_open\n" in refused
    assert "Retry-After: 1\n" in refused

    # What the walk-through sleeps for: the first request after open_duration is the trial, and closes it.
    code = f"curl -s -o /dev/null -w '%{{http_code}}' {url}/hello"
    assert eventually(lambda: typed(code) == "200")
    assert transitions(url) == {"open": 1, "half_open": 1, "closed": 1}
    status = json.loads(charon.admin("/api/status")[1])
    (endpoint,) = status["services"]["http-backend"]
    assert endpoint["breaker"] == "closed"
    assert typed(code) == "200"
