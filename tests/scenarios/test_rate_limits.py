"""Rate limits and limits of connections, counted by all workers together."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, sample, total
from tests.harness.client import Broken, RawClient, Response
from tests.harness.waiting import eventually
from tests.scenarios.services import worker_of

LIMITED = "charon_http_rate_limited_total"
NEVER = 0.001
"""A rate that adds nothing while a test runs: what passes is the burst."""


def limit(rate: float, burst: int | None = None, **more: Any) -> dict[str, Any]:
    return {"requests_per_second": rate, **({} if burst is None else {"burst_size": burst}), **more}


ROUTES = {
    "exact-1": limit(100, 50),
    "exact-10": limit(100, 50),
    "exact-100": limit(100, 50),
    "told": limit(2, 3),
    "half": limit(0.5),
    "default-burst": limit(7),
    "by-key": limit(NEVER, 2, key="header:X-Api-Key"),
    "kept": limit(NEVER, 4),
}


@pytest.fixture(scope="module")
def answering() -> Iterator[ScriptedBackend]:
    with ScriptedBackend() as backend:
        backend.serve(http_response(200, b"passed", "Connection: close"))
        yield backend


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, answering: ScriptedBackend, echo_server: Program) -> CharonProcess:
    routes = [{"path_prefix": f"/{name}", "service": "web", "rate_limit": block} for name, block in ROUTES.items()]

    def listener(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "address": "127.0.0.1:0", "target_service_name": "web", **more}

    relay = {"protocol": "tcp", "target_service_name": "echo"}
    return start_shared_charon(
        {
            "listeners": [
                listener("web", routes=routes),
                listener("only", rate_limit=limit(NEVER, 3, routes=["/only"])),
                listener(
                    "routed",
                    rate_limit=limit(NEVER, 3),
                    routes=[{"path_prefix": "/a", "service": "web"}, {"path_prefix": "/b", "service": "web"}],
                ),
                listener("clients", rate_limit=limit(NEVER, 2, key="client_ip"), trusted_proxies=["127.0.0.0/8"]),
                listener("strangers", rate_limit=limit(NEVER, 2, key="client_ip")),
                listener("few", limits={"max_connections_per_client": 3}),
                listener("relay-rate", **relay, rate_limit=limit(NEVER, 3)),
                listener("relay-few", **relay, limits={"max_connections_per_client": 3}),
            ],
            "services": {"web": {"addresses": [answering.address]}, "echo": {"addresses": [echo_server.address]}},
        },
        workers=4,
    )


def ask(charon: CharonProcess, listener: str, path: str = "/", *headers: str) -> Response:
    with RawClient(charon.port(listener)) as client:
        return client.get(path, *headers, "Connection: close")


def passed(charon: CharonProcess, count: int, listener: str, path: str = "/", *headers: str) -> int:
    """How many of ``count`` requests were let through."""
    found = Counter(ask(charon, listener, path, *headers).status for _ in range(count))
    assert found[200] + found[429] == count
    return found[200]


# -- how many ---------------------------------------------------------------------------------------------------------


class Asker(threading.Thread):
    """A client that asks without a pause until ``end``. It knows when each of its requests was under way."""

    def __init__(self, port: int, path: str, start: threading.Barrier, seconds: float) -> None:
        super().__init__(daemon=True)
        self.asked: list[tuple[float, float, int]] = []
        self._port = port
        self._path = path
        self._start_together = start
        self._seconds = seconds

    def run(self) -> None:
        with RawClient(self._port) as client:
            self._start_together.wait(10)
            end = monotonic() + self._seconds
            while (sent := monotonic()) < end:
                status = client.get(self._path).status
                self.asked.append((sent, monotonic(), status))


@pytest.mark.parametrize("connections", [1, 10, 100])
def test_what_is_let_through_is_exact(charon: CharonProcess, connections: int) -> None:
    rate, burst = 100, 50
    start = threading.Barrier(connections)
    askers = [Asker(charon.port("web"), f"/exact-{connections}", start, 1.5) for _ in range(connections)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    asked = [request for asker in askers for request in asker.asked]
    passed = sum(status == 200 for _, _, status in asked)
    # Each decision fell between sending and answer, and at the last refusal all was used up.
    most = max(done for _, done, _ in asked) - min(sent for sent, _, _ in asked)
    least = max(sent for sent, _, status in asked if status == 429) - min(done for _, done, _ in asked)
    assert all(asker.asked for asker in askers)
    assert 0.98 * (burst + rate * least) <= passed <= 1.02 * (burst + rate * most)


def test_without_a_burst_it_is_the_rate_rounded_up(charon: CharonProcess) -> None:
    began = monotonic()
    count = passed(charon, 12, "web", "/default-burst")
    assert 7 <= count <= 7 + 7 * (monotonic() - began) + 1


def test_fractions_of_a_request_per_second(charon: CharonProcess) -> None:
    assert ask(charon, "web", "/half").status == 200
    refused = ask(charon, "web", "/half")
    assert (refused.status, refused.get("Retry-After")) == (429, "2")
    assert refused.get("RateLimit-Policy") == '"/half";q=1;w=2'


# -- what the client, the log and the metrics say ---------------------------------------------------------------------


def test_what_a_client_is_told(charon: CharonProcess) -> None:
    mark = charon.mark()
    with RawClient(charon.port("web")) as client:
        answers = [client.get("/told/secret?id=1") for _ in range(8)]
    assert [answer.status for answer in answers[:3]] == [200] * 3
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) >= 4
    last = refused[-1]
    assert last.error == "rate_limited"
    assert last.body == b"rate_limited: Too many requests; see Retry-After.\n"
    assert last.get("Retry-After") == "1"
    assert last.get("RateLimit-Policy") == '"/told";q=4;w=2'
    assert last.get("RateLimit") == '"/told";r=0;t=1'
    assert last.get("Connection") is None, "the connection goes on"
    lines = charon.wait_for_events("http_request", len(refused), since=mark, status=429, route="/told")
    said = {(line["reason"], line["upstream"], line["path"]) for line in lines}
    assert said == {("rate_limited", "none", "/told/secret")}
    metrics = charon.metrics()
    assert sample(metrics, LIMITED, route="/told") == len(refused)
    requests = sample(metrics, "charon_http_requests_total", method="GET", status="429", upstream="none")
    assert requests >= len(refused)
    assert total(metrics, LIMITED) == requests
    assert not [labels for _, labels in metrics for _, value in labels if "secret" in value]
    assert charon.wait_for_event("rate_limited", since=mark, limit="/told")["client"] == "127.0.0.1"


# -- whose requests ---------------------------------------------------------------------------------------------------


def test_only_the_paths_that_are_named(charon: CharonProcess) -> None:
    assert passed(charon, 6, "only", "/other") == 6
    assert passed(charon, 6, "only", "/only-not") == 6
    assert passed(charon, 2, "only", "/only") + passed(charon, 4, "only", "/only/x?y") == 3
    assert passed(charon, 6, "only", "/other") == 6


def test_each_route_has_its_own_and_made_up_paths_none(charon: CharonProcess) -> None:
    assert passed(charon, 6, "routed", "/a") == 3
    assert passed(charon, 6, "routed", "/b") == 3
    assert sum(passed(charon, 1, "routed", f"/made/up/{number}") for number in range(20)) == 3
    labels = {value for name, labels in charon.metrics() if name == LIMITED for _, value in labels}
    assert not [label for label in labels if "made" in label]


def test_the_metrics_are_always_to_be_had(charon: CharonProcess) -> None:
    passed(charon, 8, "strangers")
    assert ask(charon, "strangers").status == 429
    assert ask(charon, "strangers", "/metrics").status == 200


def test_each_client_has_its_own_as_far_as_it_can_be_believed(charon: CharonProcess) -> None:
    def of(client: str, listener: str = "clients") -> int:
        return passed(charon, 4, listener, "/", f"X-Forwarded-For: {client}")

    assert [of("192.0.2.1"), of("192.0.2.2"), of("192.0.2.1")] == [2, 2, 0]
    assert of("2001:db8::1") == 2
    assert [of("203.0.113.7, 192.0.2.3"), of("203.0.113.8, 192.0.2.3")] == [2, 0], "what a client says is not believed"
    assert passed(charon, 4, "clients") == 2
    assert of("192.0.2.9", "strangers") + of("192.0.2.10", "strangers") <= 2


def test_each_value_of_a_header_has_its_own(charon: CharonProcess) -> None:
    def of(*headers: str) -> int:
        return passed(charon, 4, "web", "/by-key", *headers)

    assert [of("X-Api-Key: one"), of("x-api-key: two"), of("X-Api-Key: one")] == [2, 2, 0]
    assert [of(), of()] == [2, 0]


def test_a_worker_that_dies_gives_nothing_back(charon: CharonProcess) -> None:
    assert passed(charon, 6, "web", "/kept") == 4
    victim = charon.worker_pids()[1]
    os.kill(victim, signal.SIGKILL)
    charon.wait_for_event("worker_died", pid=victim)
    eventually(lambda: victim not in charon.worker_pids())
    assert passed(charon, 12, "web", "/kept") == 0


# -- connections ------------------------------------------------------------------------------------------------------


def echoes(client: RawClient) -> bool:
    """Whether the connection is carried; refused ones are reset."""
    try:
        client.send(b"still there")
        return client.recv_exactly(11) == b"still there"
    except (Broken, ConnectionError):
        return False


def answers(client: RawClient) -> bool:
    """Whether the connection is served; a refused one is told so, and closed."""
    response = client.get()
    if response.status == 200:
        return True
    assert (response.status, response.error) == (429, "too_many_connections")
    assert response.get("Retry-After") == "1"
    assert client.ended()
    return False


def test_new_tcp_connections_per_second(charon: CharonProcess) -> None:
    mark = charon.mark()
    with ExitStack() as stack:

        def carried() -> bool:
            try:
                return echoes(stack.enter_context(RawClient(charon.port("relay-rate"))))
            except ConnectionResetError:
                return False  # refused before it knew that it was connected

        assert [carried() for _ in range(7)] == [True] * 3 + [False] * 4
    charon.wait_for_events("tcp_connection", 4, since=mark, listener="relay-rate", reason="rate_limited")
    assert sample(charon.metrics(), LIMITED, route="relay-rate") == 4


@pytest.mark.parametrize(("listener", "works"), [("relay-few", echoes), ("few", answers)])
def test_connections_of_one_client_at_the_same_time(
    charon: CharonProcess, listener: str, works: Callable[[RawClient], bool]
) -> None:
    with ExitStack() as stack:

        def one_more() -> RawClient | None:
            try:
                client = stack.enter_context(RawClient(charon.port(listener)))
            except ConnectionResetError:
                return None  # refused before it knew that it was connected
            return client if works(client) else None

        def served() -> RawClient:
            client = eventually(one_more)
            assert client is not None
            return client

        clients = [served() for _ in range(3)]
        assert [one_more() for _ in range(4)] == [None] * 4
        clients.pop().close()
        clients.append(served())
        mark = charon.mark()
        assert one_more() is None
        assert all(works(client) for client in clients)
    event = "tcp_connection" if listener == "relay-few" else "http_request"
    charon.wait_for_event(event, since=mark, listener=listener, reason="too_many_connections")
    if listener == "few":
        metrics = charon.metrics()
        labels = {"listener": "few", "reason": "too_many_connections"}
        refused = sample(metrics, "charon_http_request_failures_total", **labels)
        assert 0 < refused == total(metrics, "charon_http_requests_total", method="OTHER", status="429")


def test_connections_of_a_killed_worker_are_free_again(charon: CharonProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(charon.port("few"))) for _ in range(3)]
        eventually(lambda: all(answers(client) for client in clients))
        holders = {worker_of(client.sock, charon.worker_pids()) for client in clients}
        for pid in holders:
            os.kill(pid, signal.SIGKILL)
        for pid in holders:
            charon.wait_for_event("worker_died", pid=pid)
        fresh: list[RawClient] = []

        def three_more() -> bool:
            new = stack.enter_context(RawClient(charon.port("few")))
            if answers(new):
                fresh.append(new)
            return len(fresh) == 3

        eventually(three_more)
        assert not answers(stack.enter_context(RawClient(charon.port("few"))))
