"""Reload by SIGHUP: the configuration is put in force as a whole, or not at all; what stays the same lives on."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Program, ScriptedBackend, http_response
from tests.harness.charon import CharonProcess, LogLine, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually

Block = dict[str, Any]


def listener(name: str, address: str, backend: str, **more: Any) -> Block:
    return {"name": name, "address": address, "target_service_addr": backend, **more}


@pytest.fixture
def echoing(backend: ScriptedBackend) -> ScriptedBackend:
    backend.serve(lambda request: http_response(200, request.target.encode()))
    return backend


def reload(charon: CharonProcess, config: dict[str, Any] | str) -> LogLine:
    """Write ``config``, ask for a reload, and give the event that tells how it went."""
    mark = charon.mark()
    charon.write_config(config)
    charon.signal(signal.SIGHUP)
    ends = ("config_reloaded", "config_reload_failed")
    lines = charon.wait_for_log(lambda lines: any(line["message"] in ends for line in lines[mark:]))
    return next(line for line in lines[mark:] if line["message"] in ends)


def put_in_force(charon: CharonProcess, config: dict[str, Any]) -> LogLine:
    event = reload(charon, config)
    assert event["message"] == "config_reloaded", event
    return event


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_listener_comes_and_goes_and_the_others_notice_nothing(
    start_charon: StartCharon, echoing: ScriptedBackend
) -> None:
    stays = listener("stays", "127.0.0.1:0", echoing.address)
    charon = start_charon({"listeners": [stays]}, workers=2)
    comes = listener("comes", f"127.0.0.1:{free_port()}", echoing.address)
    with RawClient(charon.port("stays")) as held:
        assert held.get("/1").body == b"/1"
        put_in_force(charon, {"listeners": [stays, comes]})
        with RawClient(charon.port("comes")) as client:
            assert client.get("/2").body == b"/2"
            put_in_force(charon, {"listeners": [stays]})
            eventually(lambda: refuses(charon.port("comes")))
            assert client.recv() == b"", "an idle connection of a listener that left is closed"
        assert held.get("/3").body == b"/3", "on the very same connection"


def test_a_mistake_changes_nothing_and_is_told_with_its_line(
    start_charon: StartCharon, echoing: ScriptedBackend
) -> None:
    good = {"listeners": [listener("web", "127.0.0.1:0", echoing.address)]}
    charon = start_charon(good)
    event = reload(charon, {**good, "drain_timeout": "soon", "bogus": 1})
    assert event["message"] == "config_reload_failed"
    told = "\n".join(event["problems"])
    assert f"{charon.config_path}:" in told and "drain_timeout" in told and "bogus" in told
    assert sample(charon.metrics(), "charon_config_last_reload_successful") == 0
    with RawClient(charon.port("web")) as client:
        assert client.get("/still").body == b"/still"
    put_in_force(charon, good)
    assert sample(charon.metrics(), "charon_config_last_reload_successful") == 1


def test_a_port_that_is_taken_refuses_the_whole(start_charon: StartCharon, echoing: ScriptedBackend) -> None:
    web = listener("web", "127.0.0.1:0", echoing.address)
    charon = start_charon({"listeners": [web]})
    spare = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        blocks = [
            {**web, "routes": [{"path_prefix": "/", "redirect": {"path": "/never"}}]},
            listener("spare", f"127.0.0.1:{spare}", echoing.address),
            listener("taken", f"127.0.0.1:{taken.getsockname()[1]}", echoing.address),
        ]
        event = reload(charon, {"listeners": blocks})
    assert event["message"] == "config_reload_failed" and "cannot listen" in event["problems"][0]
    assert refuses(spare), "what could be opened has been closed again"
    with RawClient(charon.port("web")) as client:
        assert client.get("/plain").status == 200


def test_new_rules_hold_from_the_next_request_on_an_open_connection(
    start_charon: StartCharon, echoing: ScriptedBackend
) -> None:
    web = listener("web", "127.0.0.1:0", echoing.address)
    charon = start_charon({"listeners": [web]})
    with RawClient(charon.port("web")) as client:
        assert client.get("/old").status == 200
        put_in_force(
            charon, {"listeners": [{**web, "routes": [{"path_prefix": "/old", "redirect": {"path": "/new"}}]}]}
        )
        assert client.get("/old").status == 302


def test_a_request_under_way_finishes_on_a_listener_that_leaves(
    start_charon: StartCharon, backend: ScriptedBackend, echo_server: Program
) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slowly(connection: Connection) -> None:
        connection.read_request()
        arrived.set()
        assert go_on.wait(10)
        connection.send(http_response(200, b"late"))

    backend.script = slowly
    stays = listener("stays", "127.0.0.1:0", echo_server.address, protocol="tcp")
    charon = start_charon({"listeners": [stays, listener("leaves", "127.0.0.1:0", backend.address)]})
    with RawClient(charon.port("leaves")) as client, RawClient(charon.port("stays")) as relayed:
        relayed.send(b"one")
        assert relayed.recv() == b"one"
        client.request("GET /slow")
        assert arrived.wait(10)
        put_in_force(charon, {"listeners": [stays]})
        go_on.set()
        response = client.read_response()
        assert (response.body, response.get("Connection")) == (b"late", "close")
        relayed.send(b"two")
        assert relayed.recv() == b"two", "a relayed connection of another listener lives on"


def test_a_breaker_stays_open_over_a_reload(start_charon: StartCharon, backend: ScriptedBackend) -> None:
    backend.serve(http_response(500, b"no"))
    config = {
        "listeners": [listener("web", "127.0.0.1:0", backend.address)],
        "circuit_breaker": {"failure_threshold": 2, "open_duration": "1h"},
    }
    charon = start_charon(config, workers=2)
    with RawClient(charon.port("web")) as client:
        assert [client.get().status for _ in range(3)] == [500, 500, 503]
        put_in_force(charon, {**config, "timeouts": {"request": "30s"}})
        assert client.get().status == 503
    assert len(backend.requests) == 2


def test_a_listener_that_only_changes_its_name_keeps_its_socket(
    start_charon: StartCharon, echoing: ScriptedBackend
) -> None:
    address = f"127.0.0.1:{free_port()}"
    charon = start_charon({"listeners": [listener("before", address, echoing.address)]})
    put_in_force(charon, {"listeners": [listener("after", address, echoing.address)]})
    with RawClient(charon.port("after")) as client:
        assert client.get("/x").body == b"/x"
    assert charon.wait_for_event("http_request", path="/x")["listener"] == "after"


def test_keys_that_need_a_restart_are_named_and_the_rest_is_in_force(
    start_charon: StartCharon, echoing: ScriptedBackend
) -> None:
    web = listener("web", "127.0.0.1:0", echoing.address)
    charon = start_charon({"listeners": [web]})
    event = put_in_force(charon, {"listeners": [web], "workers": 2, "logging": {"level": "warning"}})
    assert event["needs_restart"] == ["workers"]
    status = json.loads(charon.admin("/api/status")[1])
    assert len(status["workers"]) == 1 and status["last_reload"]["ok"]
    mark = charon.mark()
    with RawClient(charon.port("web")) as client:
        client.get("/unlogged")
    fewer = {"exclude_paths": ["/probe"], "format": "console"}
    assert put_in_force(charon, {"listeners": [web], "logging": fewer})["needs_restart"] == ["logging"]
    with RawClient(charon.port("web")) as client:
        client.get("/probe/this")
        client.get("/logged")
    charon.wait_for_event("http_request", path="/logged")
    assert put_in_force(charon, {"listeners": [web], "logging": {"sample": 0}})["needs_restart"] == []
    with RawClient(charon.port("web")) as client:
        client.get("/not-in-the-sample")
        client.request("BAD /a b")
    charon.wait_for_event("http_request", reason="bad_request")
    paths = [line["path"] for line in charon.log_lines("http_request")]
    assert paths == ["/logged", ""], mark


@pytest.fixture
def busy(start_charon: StartCharon, echoing: ScriptedBackend) -> Iterator[Callable[[], CharonProcess]]:
    """A Charon whose one listener is asked all the time, over kept and over new connections."""
    stop = threading.Event()
    wrong: list[object] = []
    threads: list[threading.Thread] = []

    def ask(charon: CharonProcess, kept: bool) -> None:
        try:
            while not stop.is_set():
                with RawClient(charon.port("web")) as client:
                    for number in range(50 if kept else 1):
                        response = client.get(f"/{number}")
                        assert (response.status, response.body) == (200, b"/%d" % number)
        except BaseException as error:  # noqa: BLE001 - judged below
            wrong.append(error)

    def start() -> CharonProcess:
        charon = start_charon({"listeners": [listener("web", "127.0.0.1:0", echoing.address)]}, workers=2)
        for kept in (True, True, False, False):
            threads.append(threading.Thread(target=ask, args=(charon, kept)))
            threads[-1].start()
        return charon

    yield start
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
def test_no_request_fails_while_the_configuration_changes_under_load(
    busy: Callable[[], CharonProcess], echoing: ScriptedBackend
) -> None:
    charon = busy()
    web = listener("web", "127.0.0.1:0", echoing.address)
    for round_ in range(10):
        changed = {**web, "timeouts": {"request": f"{20 + round_}s"}}
        more = listener(f"more-{round_}", "127.0.0.1:0", echoing.address)
        put_in_force(charon, {"listeners": [changed, more], "limits": {"max_connections": 1000 + round_}})
        if round_ % 3 == 0:
            assert reload(charon, "listeners: 7\n")["message"] == "config_reload_failed"


def test_the_metrics_move_to_another_path(start_charon: StartCharon, echoing: ScriptedBackend) -> None:
    web = listener("web", "127.0.0.1:0", echoing.address)
    charon = start_charon({"listeners": [web]})
    with RawClient(charon.port("web")) as client:
        assert b"charon_workers" in client.get("/metrics").body
        put_in_force(charon, {"listeners": [web], "metrics": {"path": "/stats"}})
        assert b"charon_workers" in client.get("/stats").body
        assert client.get("/metrics").body == b"/metrics", "that path is the application's again"
        put_in_force(charon, {"listeners": [web], "metrics": {"on_listeners": False}})
        assert client.get("/stats").body == b"/stats"
