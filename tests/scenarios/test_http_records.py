"""What is left of a request when it is over: one access line, its counts, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Connection, ScriptedBackend, http_response, refused_address
from tests.harness.charon import CharonProcess, LogLine, descriptors, sample, total
from tests.harness.client import Broken, RawClient

ALWAYS = {
    "timestamp", "level", "message", "method", "path", "upstream", "status", "latency_ms", "size_bytes", "listener",
    "route", "client", "bytes_in", "retries", "protocol",
}  # fmt: skip


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    return start_shared_charon(
        {
            "listeners": [
                {
                    "name": "web",
                    "address": "127.0.0.1:0",
                    "target_service_name": "app",
                    "routes": [{"path_prefix": "/dead", "service": "dead"}],
                    "timeouts": {"response_headers": "200ms"},
                    "limits": {"max_body_bytes": 1000},
                },
                {"name": "silent", "address": "127.0.0.1:0", "target_service_name": "app", "access_log": False},
            ]
        },
        {"app": shared_backend.address, "dead": refused_address()},
    )


@pytest.fixture
def client(charon: CharonProcess) -> Iterator[RawClient]:
    with RawClient(charon.port("web")) as client:
        yield client


def line_of(charon: CharonProcess, path: str) -> LogLine:
    """The only access line of a path that one test alone asks for."""
    line = charon.wait_for_event("http_request", path=path)
    assert len([other for other in charon.log_lines("http_request") if other["path"] == path]) == 1
    assert line.keys() >= ALWAYS
    assert line["client"] == "127.0.0.1" and line["latency_ms"] > 0
    when = datetime.fromisoformat(line["timestamp"])
    assert when.tzinfo == UTC and line["timestamp"].endswith("Z") and len(line["timestamp"]) == 24
    return line


def test_a_request_that_goes_well(charon: CharonProcess, client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(201, b"made it"))
    assert client.post("/well?secret=1", b"four").status == 201
    line = line_of(charon, "/well")
    assert line.keys() == ALWAYS, "no reason, and no query: it may hold secrets"
    assert {key: line[key] for key in ALWAYS - {"timestamp", "latency_ms"}} == {
        "level": "info", "message": "http_request", "method": "POST", "path": "/well", "upstream": backend.address,
        "status": 201, "size_bytes": 7, "listener": "web", "route": "", "client": "127.0.0.1", "bytes_in": 4,
        "retries": 0, "protocol": "HTTP/1.1",
    }  # fmt: skip


def test_an_error_of_the_application_is_no_error_of_charons(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    backend.serve(http_response(502, b"mine"))
    response = client.get("/app-error")
    assert (response.status, response.error, response.body) == (502, None, b"mine")
    line = line_of(charon, "/app-error")
    assert (line["level"], line["status"]) == ("info", 502) and "reason" not in line


def test_an_answer_to_head_has_no_size(charon: CharonProcess, client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    client.request("HEAD /head")
    client.read_response("HEAD")
    assert line_of(charon, "/head")["size_bytes"] == 0


def test_an_http10_request(charon: CharonProcess, client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.send("GET /old HTTP/1.0\r\n\r\n")
    client.read_response()
    assert line_of(charon, "/old")["protocol"] == "HTTP/1.0"


def test_a_refused_connection(charon: CharonProcess, client: RawClient) -> None:
    response = client.get("/dead/refused")
    line = line_of(charon, "/dead/refused")
    assert (line["level"], line["status"], line["reason"]) == ("warning", 502, "connect_refused")
    assert (line["route"], line["upstream"] != "none") == ("/dead", True)
    assert line["size_bytes"] == len(response.body)


def test_a_timeout(charon: CharonProcess, client: RawClient, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.wait_for_end()

    backend.script = script
    assert client.get("/timeout").status == 504
    line = line_of(charon, "/timeout")
    assert (line["status"], line["reason"], line["upstream"]) == (504, "response_timeout", backend.address)
    assert 200 <= line["latency_ms"] < 5000


def test_a_body_over_the_limit(charon: CharonProcess, client: RawClient) -> None:
    assert client.post("/too-large", b"x" * 1001).status == 413
    line = line_of(charon, "/too-large")
    assert (line["status"], line["reason"], line["upstream"]) == (413, "body_too_large", "none")


def test_a_request_that_is_none(charon: CharonProcess, backend: ScriptedBackend) -> None:
    """Neither method nor path of it can be believed, so none is shown, and nothing of it can forge a line."""
    lines = len([line for line in charon.log_lines("http_request") if line.get("reason") == "bad_request"])
    with RawClient(charon.port("web")) as client:
        client.send('GET /"\r\n{"message":"http_request","path":"/forged"} HTTP/1.1\r\nHost: a\r\n\r\n')
        assert client.read_response().status == 400
    line = charon.wait_for_events("http_request", lines + 1, reason="bad_request")[-1]
    assert (line["status"], line["method"], line["path"], line["upstream"]) == (400, "", "", "none")
    assert not [line for line in charon.log_lines() if line.get("path") == "/forged"]


def test_client_bytes_cannot_forge_a_field(charon: CharonProcess, client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.get("/quote%22,%22status%22:999,%0A%1b[31m")
    client.get("/after-the-quote")
    line_of(charon, "/after-the-quote")
    [line] = [line for line in charon.log_lines("http_request") if line["path"].startswith("/quote")]
    assert line["status"] == 200
    assert not any(ord(character) < 32 for character in line["path"])
    assert all(text.startswith("{") and text.isascii() for text in charon.raw_log())


def test_a_listener_without_an_access_log_is_silent(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    before = total(charon.metrics(), "charon_http_requests_total")
    with RawClient(charon.port("silent")) as client:
        client.get("/unseen")
    with RawClient(charon.port("web")) as client:
        client.get("/after-unseen")
    line_of(charon, "/after-unseen")
    assert not [line for line in charon.log_lines("http_request") if line["path"] == "/unseen"]
    assert total(charon.metrics(), "charon_http_requests_total") == before + 2


def test_requests_are_counted_by_method_status_and_upstream(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"x" * 100))
    name, latency = "charon_http_requests_total", "charon_http_request_latency_seconds_count"
    before = charon.metrics()
    with RawClient(charon.port("web")) as client:
        for _ in range(3):
            client.get("/counted")
        client.request("BREW /counted-brew")
        client.read_response()
        client.get("/dead/counted")
        line_of(charon, "/dead/counted")
        after = charon.metrics()

    def more(family: str, **labels: str) -> float:
        return total(after, family, **labels) - total(before, family, **labels)

    assert more(name, method="GET", status="200", upstream=backend.address) == 3
    assert more(name, method="OTHER", status="200", upstream=backend.address) == 1, "labels are not the client's"
    assert more(name, method="GET", status="502") == 1
    assert more(latency, method="GET", upstream=backend.address) == 3
    assert more("charon_listener_accepted_connections_total", listener="web") == 1
    assert more("charon_listener_sent_bytes_total", listener="web") > 400
    assert sample(after, "charon_listener_connections", listener="web") >= 1


# -- nothing is left ----------------------------------------------------------------------------------------------


def mixed_failures(charon: CharonProcess, backend: ScriptedBackend) -> None:
    """Many kinds of good and bad ends, each a few times."""
    port = charon.port("web")

    def script(connection: Connection) -> None:
        while True:
            target = connection.read_request().target
            if target == "/ok":
                connection.send(http_response(200, b"ok"))
            elif target == "/reset":
                connection.reset()
                return
            elif target == "/truncated":
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
                return
            elif target == "/malformed":
                connection.send(b"HTTP/9 nonsense\r\n\r\n")
                return
            elif target == "/upgrade":
                connection.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
                connection.reset()
                return
            else:
                asked.set()
                connection.wait_for_end()
                left.set()
                return

    asked, left = threading.Event(), threading.Event()
    backend.forget()
    backend.script = script
    for _ in range(3):
        with RawClient(port) as client:
            assert client.get("/ok").status == 200
            assert client.get("/dead/x").status == 502
            assert client.get("/reset").status == 502
            assert client.get("/malformed").status == 502
            assert client.get("/timeout").status == 504
            with pytest.raises(Broken):
                client.get("/truncated")
        with RawClient(port) as client:
            client.send("nonsense\r\n\r\n")
            assert client.read_response().status == 400
        with RawClient(port) as client:
            client.send("POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
        with RawClient(port) as client:
            assert client.get("/upgrade", "Connection: Upgrade", "Upgrade: x").status == 101
        asked.clear()
        left.clear()
        client = RawClient(port)
        client.request("GET /waits")
        assert asked.wait(PATIENCE)
        client.reset()
        assert left.wait(PATIENCE)
        with RawClient(port) as client:
            client.send("GET /cut HTTP/1.1\r\nHo")
        RawClient(port).close()
    backend.forget()


def settled(charon: CharonProcess, most: int | None = None) -> int:
    """Descriptors of the worker once no client is connected (and there are no more than ``most``)."""
    [pid] = charon.worker_pids()
    count = -1
    for _ in range(400):
        metrics = charon.metrics()  # asks the worker, which takes its turn between the others
        count = len(descriptors(pid))
        clients = total(metrics, "charon_listener_connections")
        busy = total(metrics, "charon_upstream_pool_idle_connections") + total(
            metrics, "charon_http_requests_in_flight"
        )
        if not clients and not busy and (most is None or count <= most):
            return count
        threading.Event().wait(0.01)
    raise AssertionError(f"{count} descriptors: {sorted(descriptors(pid))}")


def test_mixed_failures_leave_nothing_behind(charon: CharonProcess, backend: ScriptedBackend) -> None:
    mixed_failures(charon, backend)
    before = settled(charon)
    mixed_failures(charon, backend)
    mixed_failures(charon, backend)
    assert settled(charon, most=before) <= before
    metrics = charon.metrics()
    assert total(metrics, "charon_upstream_requests_in_flight") == 0
    assert not charon.log_lines("internal_error") and "Traceback" not in charon.stderr()


def test_every_failure_was_one_line(charon: CharonProcess, backend: ScriptedBackend) -> None:
    mark = charon.mark("web")
    mixed_failures(charon, backend)
    charon.mark("web")
    lines = [line for line in charon.log_lines()[mark:] if line["message"] == "http_request"][:-1]
    reasons = sorted((line["path"], line.get("reason", "")) for line in lines)
    once = [
        ("/ok", ""), ("/dead/x", "connect_refused"), ("/reset", "upstream_reset"), ("/malformed", "upstream_malformed"),
        ("/timeout", "response_timeout"), ("/truncated", "upstream_truncated"), ("", "bad_request"),
        ("/ok", "client_abort"), ("/upgrade", "upstream_reset"), ("/waits", "client_abort"), ("", "client_abort"),
    ]  # fmt: skip
    assert reasons == sorted(once * 3)
