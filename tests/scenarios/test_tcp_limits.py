"""Many connections, the limit on them, and a process that runs out of descriptors."""

from __future__ import annotations

import itertools
import resource
from contextlib import ExitStack, suppress

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess, descriptors, sample, total
from tests.harness.client import Broken, RawClient
from tests.harness.waiting import cpu_seconds, eventually


def tcp(echo_server: Program, **settings: object) -> tuple[dict[str, object], dict[str, str]]:
    listener = {"name": "echo", "address": "127.0.0.1:0", "target_service_name": "echo", **settings}
    return {"protocol": "tcp", "listeners": [listener]}, {"echo": echo_server.address}


def echoes(client: RawClient, message: bytes = b"still here") -> bool:
    client.send(message)
    return client.recv_exactly(len(message)) == message


def serves(charon: CharonProcess) -> bool:
    """Whether a new connection is taken and carried."""
    try:
        with RawClient(charon.port()) as client:
            return echoes(client)
    except (Broken, ConnectionError):
        return False


def answers_within(client: RawClient, seconds: float) -> bool:
    client.sock.settimeout(seconds)
    try:
        return client.recv(1) != b""
    except TimeoutError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_five_hundred_connections_at_once(start_charon: StartCharon, echo_server: Program, workers: int) -> None:
    config, registry = tcp(echo_server)
    charon = start_charon(config, registry, workers=workers)
    before = [len(descriptors(pid)) for pid in charon.worker_pids()]
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(charon.port())) for _ in range(500)]
        assert all(echoes(client, b"client %d" % number) for number, client in enumerate(clients))
        metrics = charon.metrics()
        assert sample(metrics, "charon_listener_connections", listener="echo") == 500
    charon.wait_for_events("tcp_connection", 500)
    assert sample(charon.metrics(), "charon_listener_connections", listener="echo") == 0
    assert total(charon.metrics(), "charon_tcp_connections_total", outcome="ok") == 500
    assert [len(descriptors(pid)) for pid in charon.worker_pids()] == before


def test_connections_over_the_limit_wait_their_turn(start_charon: StartCharon, echo_server: Program) -> None:
    config, registry = tcp(echo_server, limits={"max_connections": 3})
    charon = start_charon(config, registry)
    with ExitStack() as stack:
        first = [stack.enter_context(RawClient(charon.port())) for _ in range(3)]
        assert all(echoes(client) for client in first)
        waiting = stack.enter_context(RawClient(charon.port()))  # the kernel answers; Charon has not taken it yet
        waiting.send(b"let me in")
        assert not answers_within(waiting, 0.3)
        assert sample(charon.metrics(), "charon_listener_connections", listener="echo") == 3
        first[0].close()
        waiting.sock.settimeout(10)
        assert waiting.recv_exactly(9) == b"let me in"
        assert all(echoes(client) for client in first[1:])


def test_out_of_descriptors_accepting_pauses_and_recovers(start_charon: StartCharon, echo_server: Program) -> None:
    config, registry = tcp(echo_server)
    charon = start_charon(config, registry)
    (worker,) = charon.worker_pids()
    with ExitStack() as stack:
        held = [stack.enter_context(RawClient(charon.port()))]
        assert echoes(held[0])
        limit = len(descriptors(worker)) + 20
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(60):
            with suppress(ConnectionResetError):
                held.append(stack.enter_context(RawClient(charon.port())))
        mark = charon.mark()
        charon.wait_for_event("accept_failed", listener="echo", error="Too many open files")
        # From one complaint to the next it may neither spin nor complain more often than once a second.
        cpu = cpu_seconds(worker)
        lines = charon.wait_for_events("accept_failed", 3)
        assert cpu_seconds(worker) - cpu < 0.5
        seconds = [float(line["timestamp"][17:-1]) for line in lines]
        assert all((later - earlier) % 60 >= 0.95 for earlier, later in itertools.pairwise(seconds))
        assert sample(charon.metrics(), "charon_listener_accept_errors_total", listener="echo") > 3
        assert echoes(held[0]), "connections that are there go on"
        assert not [line for line in charon.log_lines()[mark:] if line["message"] == "internal_error"]
        for client in held[1:]:
            client.close()
        eventually(lambda: serves(charon))
    assert charon.worker_pids() == [worker]


def test_accepting_pauses_before_the_last_descriptors_are_gone(start_charon: StartCharon, echo_server: Program) -> None:
    """The soft limit is raised to the hard one. Each connection needs two descriptors; what is taken has both."""
    config, registry = tcp(echo_server)
    charon = start_charon(config, registry, prefix=["prlimit", "--nofile=50:128"])
    (worker,) = charon.worker_pids()
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (128, 128)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(charon.port())) for _ in range(100)]
        paused = charon.wait_for_event("accepting_paused", cause="descriptors")
        assert sample(charon.metrics(), "charon_accepting_paused_workers") == 1
        taken = int(sample(charon.metrics(), "charon_listener_connections", listener="echo"))
        assert 20 < paused["connections"] <= taken < 100
        assert len(descriptors(worker)) < 128 - 8
        cpu = cpu_seconds(worker)
        assert all(echoes(client) for client in clients[:taken])
        clients[taken].send(b"waiting")
        assert not answers_within(clients[taken], 0.5)
        assert cpu_seconds(worker) - cpu < 0.3, "it waits without asking all the time"
        for client in clients[:taken]:
            client.close()
        clients[taken].sock.settimeout(10)
        assert clients[taken].recv_exactly(7) == b"waiting"
    charon.wait_for_event("accepting_resumed")
    assert total(charon.metrics(), "charon_accept_pauses_total", cause="descriptors") >= 1
    assert {line.get("reason") for line in charon.log_lines("tcp_connection")} == {None}, "none was turned away"
    assert not charon.log_lines("accept_failed")
    assert serves(charon)


def test_the_total_of_connections_is_bounded_over_all_listeners(
    start_charon: StartCharon, echo_server: Program
) -> None:
    config, registry = tcp(echo_server)
    two = [{"name": name, "address": "127.0.0.1:0", "target_service_name": "echo"} for name in ("one", "other")]
    charon = start_charon({**config, "listeners": two, "limits": {"max_total_connections": 3}}, registry)
    with ExitStack() as stack:

        def client(listener: str) -> RawClient:
            return stack.enter_context(RawClient(charon.port(listener)))

        first = [client("one"), client("other"), client("one")]
        assert all(echoes(each) for each in first)
        waiting = [client("one"), client("other")]
        for each in waiting:
            each.send(b"let me in")
        assert not answers_within(waiting[0], 0.3)
        charon.wait_for_event("accepting_paused", cause="connections", connections=3)
        first[0].close()
        eventually(lambda: any(answers_within(each, 0.05) for each in waiting))
        assert total(charon.metrics(), "charon_listener_connections") == 3
        assert all(echoes(each) for each in first[1:])
