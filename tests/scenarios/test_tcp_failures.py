"""TCP connections that go wrong: the next endpoint, the idle limit, resets, and the reason in the log each time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Program, ScriptedBackend, black_hole, refused_address
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually

IDLE = 0.4


@pytest.fixture(scope="module")
def silent_address() -> Iterator[str]:
    with black_hole() as address:
        yield address


@pytest.fixture(scope="module")
def refusing_address() -> str:
    return refused_address()


@pytest.fixture(scope="module")
def charon(
    start_shared_charon: StartCharon,
    shared_backend: ScriptedBackend,
    echo_server: Program,
    silent_address: str,
    refusing_address: str,
) -> CharonProcess:
    names = ("scripted", "refusing-first", "silent-first", "nobody", "unknown", "empty")
    listeners = [{"name": name, "address": "127.0.0.1:0", "target_service_name": name} for name in names]
    idle = {
        "name": "idle",
        "address": "127.0.0.1:0",
        "target_service_name": "scripted",
        "timeouts": {"idle": f"{int(IDLE * 1000)}ms"},
    }
    never = {
        "name": "never",
        "address": "127.0.0.1:0",
        "target_service_name": "silent",
        "timeouts": {"connect": "60s"},
    }
    return start_shared_charon(
        {"protocol": "tcp", "timeouts": {"connect": "200ms"}, "listeners": [*listeners, idle, never]},
        {
            "scripted": shared_backend.address,
            "refusing-first": [refusing_address, echo_server.address],
            "silent-first": [silent_address, echo_server.address],
            "nobody": [refusing_address, silent_address],
            "empty": [],
            "silent": silent_address,
        },
    )


def fill(client: RawClient) -> None:
    """Send until every buffer on the way is full."""
    try:
        while True:
            client.send(bytes(1 << 20))
    except TimeoutError:
        return


def closed_without_a_byte(client: RawClient) -> bool:
    """In the orderly way or by a reset."""
    try:
        return client.ended()
    except ConnectionResetError:
        return True


def turned_away(port: int) -> bool:
    """Whether a new connection is closed without a byte, which may happen before the client knows that it has one."""
    try:
        with RawClient(port) as client:
            return client.ended()
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("listener", "reason"), [("refusing-first", "connect_refused"), ("silent-first", "connect_timeout")]
)
def test_the_next_endpoint_is_tried(charon: CharonProcess, listener: str, reason: str, echo_server: Program) -> None:
    for _ in range(2):  # whichever of the two is first in turn, one of these begins with the bad one
        with RawClient(charon.port(listener)) as client:
            client.send(b"anyone")
            assert client.recv_exactly(6) == b"anyone"
            client.half_close()
            assert client.ended()
    line = charon.wait_for_event("upstream_error", service=listener, reason=reason)
    assert line["level"] == "warning"
    assert line["tries"] == 1
    charon.wait_for_events("tcp_connection", 2, listener=listener, upstream=echo_server.address)
    assert not [line for line in charon.log_lines("tcp_connection") if line.get("reason") == reason]


def test_when_none_is_left_the_client_is_closed(
    charon: CharonProcess, refusing_address: str, silent_address: str
) -> None:
    mark = charon.mark()
    assert turned_away(charon.port("nobody"))
    line = charon.wait_for_event("tcp_connection", listener="nobody", since=mark)
    assert line["reason"] in ("connect_refused", "connect_timeout")  # that of the last try
    assert line["level"] == "warning"
    assert (line["bytes_in"], line["bytes_out"]) == (0, 0)
    tried = charon.wait_for_events("upstream_error", 2, service="nobody", since=mark)
    assert {error["upstream"] for error in tried} == {refusing_address, silent_address}
    metrics = charon.metrics()
    for upstream, reason in ((refusing_address, "connect_refused"), (silent_address, "connect_timeout")):
        labels = {"service": "nobody", "upstream": upstream, "result": reason}
        assert sample(metrics, "charon_upstream_connects_total", **labels) == 1


@pytest.mark.parametrize(("listener", "reason"), [("unknown", "unknown_service"), ("empty", "no_endpoint")])
def test_a_service_without_endpoints_closes_at_once(charon: CharonProcess, listener: str, reason: str) -> None:
    assert turned_away(charon.port(listener))
    charon.wait_for_event("tcp_connection", listener=listener, reason=reason, upstream="none")
    labels = {"listener": listener, "upstream": "none", "outcome": reason}
    assert sample(charon.metrics(), "charon_tcp_connections_total", **labels) == 1


def test_an_idle_connection_is_closed_with_the_reason_in_the_log(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    ended = threading.Event()

    def wait(connection: Connection) -> None:
        connection.wait_for_end()
        ended.set()

    backend.script = wait
    with RawClient(charon.port("idle")) as client:
        client.send(b"and then nothing")
        assert closed_without_a_byte(client)
        assert ended.wait(10)
    line = charon.wait_for_event("tcp_connection", listener="idle", reason="idle_timeout")
    assert line["duration_ms"] >= IDLE * 1000
    assert line["bytes_in"] == 16


def test_it_is_not_idle_while_the_other_direction_moves(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def tick(connection: Connection) -> None:
        wait = threading.Event()
        for _ in range(12):  # three idle times, in steps of a quarter
            connection.send(b"tick")
            wait.wait(IDLE / 4)

    backend.script = tick
    mark = charon.mark()
    with RawClient(charon.port("idle")) as client:  # which itself never sends a byte
        assert client.read_until_close() == b"tick" * 12
    line = charon.wait_for_event("tcp_connection", listener="idle", since=mark)
    assert "reason" not in line
    assert line["duration_ms"] > 2 * IDLE * 1000


def test_a_client_that_resets_ends_the_upstream_at_once(charon: CharonProcess, backend: ScriptedBackend) -> None:
    orderly: list[bool] = []
    ended = threading.Event()

    def wait(connection: Connection) -> None:
        connection.send(b"welcome")
        orderly.append(connection.wait_for_end())
        ended.set()

    backend.script = wait
    client = RawClient(charon.port("scripted"))
    assert client.recv_exactly(7) == b"welcome"
    client.reset()
    assert ended.wait(10)
    assert orderly == [False], "the upstream must not take a broken connection for a finished one"
    charon.wait_for_event("tcp_connection", listener="scripted", reason="client_abort", level="warning")


def test_an_upstream_that_resets_ends_the_client_at_once(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def break_off(connection: Connection) -> None:
        connection.recv_exactly(5)
        connection.reset()

    backend.script = break_off
    with RawClient(charon.port("scripted")) as client:
        client.send(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv()
    charon.wait_for_event("tcp_connection", listener="scripted", reason="upstream_reset")


def test_a_client_that_resets_while_the_upstream_does_not_read_ends_it_too(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    """Charon is waiting for room to write to the upstream, and not reading from the client, when this happens."""
    go_on = threading.Event()
    ended = threading.Event()

    def stall(connection: Connection) -> None:
        go_on.wait(10)
        connection.wait_for_end()
        ended.set()

    backend.script = stall
    mark = charon.mark()
    client = RawClient(charon.port("scripted"))
    client.sock.settimeout(0.5)
    fill(client)
    client.reset()
    charon.wait_for_event("tcp_connection", listener="scripted", reason="client_abort", since=mark, timeout=3.0)
    go_on.set()
    assert ended.wait(10)


def test_a_client_that_resets_while_an_upstream_is_dialled_is_noticed(charon: CharonProcess) -> None:
    client = RawClient(charon.port("never"))
    eventually(lambda: sample(charon.metrics(), "charon_listener_connections", listener="never") == 1)
    client.reset()
    assert charon.wait_for_event("tcp_connection", listener="never")["reason"] == "client_abort"
