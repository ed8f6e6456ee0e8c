"""Every metric family is really counted: traffic of all kinds, and what a scrape then shows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from charon.base.names import Metric
from charon.telemetry.families import FAMILIES
from tests.conftest import StartCharon
from tests.harness.backends import Connection, ScriptedBackend, http_response, refused_address
from tests.harness.charon import CharonProcess, Metrics
from tests.harness.client import RawClient
from tests.harness.waiting import eventually

ELSEWHERE = {
    Metric.ACCEPT_ERRORS: "tests/scenarios/test_tcp_limits.py",  # takes a process without descriptors
    Metric.LOG_DROPPED: "tests/scenarios/test_log_trouble.py",  # takes a log that cannot be written
    Metric.LOG_WRITE_ERRORS: "tests/scenarios/test_log_trouble.py",
    # Takes certificates.
    Metric.TLS_HANDSHAKES: "tests/scenarios/test_tls_inbound.py",
    Metric.AUTHORIZATION_DENIED: "tests/scenarios/test_tls_inbound.py",
    Metric.CERTIFICATE_NOT_AFTER: "tests/scenarios/test_certificates.py",
    Metric.CERTIFICATE_FAILURES: "tests/identity/test_keeper.py",
    # Takes a collector.
    Metric.TRACE_SPANS_EXPORTED: "tests/scenarios/test_tracing.py",
    Metric.TRACE_SPANS_DROPPED: "tests/scenarios/test_tracing.py",
    # Takes rules in the kernel.
    Metric.INTERCEPTED: "tests/scenarios/test_interception.py",
    Metric.INTERCEPT_ACTIVE: "tests/scenarios/test_interception.py",
    # Takes a worker that is full or has too much to do.
    Metric.ACCEPT_PAUSES: "tests/scenarios/test_tcp_limits.py",
    Metric.ACCEPTING_PAUSED: "tests/scenarios/test_tcp_limits.py",
    Metric.OVERLOADS: "tests/scenarios/test_overload.py",
    Metric.OVERLOADED: "tests/scenarios/test_overload.py",
    Metric.OVERLOAD_SHED: "tests/scenarios/test_overload.py",
    Metric.CONCURRENCY_LIMIT: "tests/scenarios/test_adaptive_concurrency.py",
    Metric.CONCURRENCY_SHED: "tests/scenarios/test_adaptive_concurrency.py",
    Metric.CONNECTIONS_DRAINING: "tests/scenarios/test_drain.py",  # takes a Charon that ends
}
"""Families of which all series stay 0 here or are not there, and the scenario in which they count."""

ROOT = Path(__file__).resolve().parents[2]


def script(connection: Connection) -> None:
    while True:
        target = connection.read_request().target
        connection.send(http_response(503 if target == "/busy" else 200, b"hello"))


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon) -> Iterator[CharonProcess]:
    """One that has been through everything."""
    with ScriptedBackend(script) as backend:
        dead = refused_address()
        listeners = [
            {
                "name": "web",
                "address": "127.0.0.1:0",
                "target_service_name": "app",
                "routes": [
                    {"path_prefix": "/dead", "service": "dead"},
                    {
                        "path_prefix": "/few",
                        "service": "app",
                        "rate_limit": {"requests_per_second": 0.001, "burst_size": 1},
                    },
                ],
            },
            {"name": "relay", "address": "127.0.0.1:0", "protocol": "tcp", "target_service_name": "app"},
        ]
        retry = {"on": ["503"], "attempts": 5, "backoff": "1ms", "budget": {"percent": 0, "min": 1}}
        charon = start_shared_charon(
            {"listeners": listeners, "services": {"app": {"retry": retry, "health_check": {"enabled": True}},
             "dead": {"circuit_breaker": {"enabled": True, "failure_threshold": 1},
                      "health_check": {"enabled": False, "passive_failures": 1}}}},
            {"app": backend.address, "dead": dead},
            workers=2,
        )  # fmt: skip
        with RawClient(charon.port("web")) as client:
            for _ in range(2):
                assert client.get("/").status == 200
            assert client.get("/busy").status == 503
            assert [client.get("/few").status for _ in range(2)] == [200, 429]
            assert client.get("/dead").status == 502
        with RawClient(charon.port("relay")) as client:
            assert client.get("/").status == 200
        charon.wait_for_event("tcp_connection")
        pid = charon.worker_pids()[0]
        os.kill(pid, signal.SIGKILL)
        charon.wait_for_event("worker_died", pid=pid)
        yield charon


def families(metrics: Metrics) -> dict[str, list[float]]:
    """The values of each family's samples."""
    found: dict[str, list[float]] = {}
    for (name, _), value in metrics.items():
        for suffix in ("_bucket", "_count", "_sum", ""):
            if name.removesuffix(suffix) in FAMILIES:
                found.setdefault(name.removesuffix(suffix), []).append(value)
                break
    return found


def test_every_family_is_there_and_counts(charon: CharonProcess) -> None:
    def silent() -> set[str]:
        found = families(charon.metrics())
        return {name for name in FAMILIES if not any(found.get(name, ()))} - set(ELSEWHERE)

    with RawClient(charon.port("web")) as open_client:
        assert open_client.get("/").status == 200  # gauges need somebody who is there
        eventually(lambda: not silent() - {Metric.UPSTREAM_REQUESTS_IN_FLIGHT, Metric.HTTP_IN_FLIGHT})
    there = set(families(charon.metrics()))
    assert set(FAMILIES) - there <= set(ELSEWHERE)


def test_what_does_not_count_here_is_seen_to_count_elsewhere() -> None:
    for name, place in ELSEWHERE.items():
        assert name in (ROOT / place).read_text(), f"{name} in {place}"


def test_promtool_finds_nothing_to_say(charon: CharonProcess) -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool (Debian: prometheus) is not installed")
    exposition = charon.admin("/metrics")[1]
    ran = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
