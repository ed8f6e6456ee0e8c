"""Traces from end to end: two Charons in a row before a backend, and a collector that reads both formats."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import opentelemetry.semconv.attributes as semconv
import pytest

from charon.base.names import SpanKey
from charon.daemon.span_sender import CAPACITY
from tests.conftest import StartCharon
from tests.harness.backends import Connection, Request, ScriptedBackend, http_response, refused_address
from tests.harness.charon import CharonProcess, sample, total
from tests.harness.client import Broken, RawClient, Response
from tests.harness.collector import Collector, SeenSpan
from tests.harness.waiting import alive, eventually

T = "0af7651916cd43dd8448eb211c80319c"
S = "b7ad6b7169203331"
EXPORTED = "charon_trace_spans_exported_total"
DROPPED = "charon_trace_spans_dropped_total"
KNOWN = {value for name, value in vars(SpanKey).items() if not name.startswith("_")} | {
    match
    for file in Path(semconv.__path__[0]).glob("*.py")
    for match in re.findall(r'^[A-Z_]+: Final = "([a-z_.]+)"$', file.read_text(), re.MULTILINE)
}
"""The attributes that spans may have: Charon's own, and the stable ones of the semantic conventions."""


@dataclass
class Row:
    """client → front → back → backend."""

    front: CharonProcess
    back: CharonProcess
    collector: Collector

    def ask(self, path: str, *headers: str, charon: CharonProcess | None = None) -> tuple[Response, str]:
        """One request; the answer, and the trace that the access line names."""
        charon = charon or self.front
        with RawClient(charon.port("web")) as client:
            response = client.get(path, *headers, "Connection: close")
        return response, charon.wait_for_event("http_request", path=path)["trace_id"]

    def server(self, trace_id: str, count: int) -> SeenSpan:
        """The span of a request, out of a trace of ``count`` spans."""
        return next(span for span in self.collector.trace(trace_id, count) if span.kind == "server")


@pytest.fixture(scope="module")
def row(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> Iterator[Row]:
    with Collector() as collector:
        url = f"http://127.0.0.1:{collector.port}"
        both = {"enabled": True, "jaeger_endpoint": f"{url}/api/traces", "otlp_endpoint": f"{url}/v1/traces"}

        def listener(**settings: Any) -> dict[str, Any]:
            return {"name": "web", "address": "127.0.0.1:0", "target_service_name": "app", **settings}

        back = start_shared_charon(
            {"listeners": [listener()], "tracing": {**both, "service_name": "back"}}, {"app": shared_backend.address}
        )
        routes = [
            {"path_prefix": "/retry", "service": "app", "retry": {"on": [503], "backoff": "1ms"}},
            {"path_prefix": "/dead", "service": "dead"},
            {"path_prefix": "/once", "service": "app", "rate_limit": {"requests_per_second": 0.001}},
            {"path_prefix": "/bare", "service": "app", "request_headers": {"remove": ["traceparent"]}},
            {"path_prefix": "/old", "service": "app", "rewrite": {"path_prefix": "/new", "host": "inner.example:81"}},
            {"path_prefix": "/none", "redirect": {"path": "/"}},
        ]
        front = start_shared_charon(
            {
                "listeners": [
                    listener(routes=routes, target_service_name="next"),
                    {"name": "direct", "address": "127.0.0.1:0", "target_service_name": "app"},
                ],
                "tracing": {**both, "service_name": "front", "propagation": ["w3c", "b3"]},
            },
            {
                "next": f"127.0.0.1:{back.port('web')}",
                "app": shared_backend.address,
                "dead": refused_address(),
            },
        )
        yield Row(front, back, collector)


@pytest.mark.parametrize("format", ["otlp", "jaeger"])
def test_a_request_through_two_charons_is_one_trace(row: Row, backend: ScriptedBackend, format: str) -> None:
    backend.serve(http_response(200, b"fine"))
    path = f"/chain/{format}"
    with RawClient(row.front.port("web")) as client:
        assert client.get(path + "?secret=1", "User-Agent: tester/1").status == 200
    line = row.front.wait_for_event("http_request", path=path)
    trace_id = line["trace_id"]
    spans = {(span.service, span.kind): span for span in row.collector.trace(trace_id, 4, format)}
    chain = [spans[who] for who in (("front", "server"), ("front", "client"), ("back", "server"), ("back", "client"))]
    assert [span.parent_id for span in chain] == ["", *(span.span_id for span in chain[:-1])]
    (request,) = backend.requests
    assert request.get("traceparent") == f"00-{trace_id}-{chain[-1].span_id}-01"
    assert [span.name for span in chain] == ["GET"] * 4 and not any(span.error for span in chain)
    for outer, inner in (chain[0:2], chain[2:4]):
        assert outer.start <= inner.start <= inner.end <= outer.end
    for charon, server in ((row.front, chain[0]), (row.back, chain[2])):
        line = charon.wait_for_event("http_request", path=path)
        assert (line["trace_id"], line["span_id"]) == (trace_id, server.span_id)
    host = {"server.address": "test.example"}
    assert {**host, "http.request.method": "GET", "url.path": path, "url.scheme": "http", "charon.listener": "web",
            "http.response.status_code": 200, "network.protocol.version": "1.1", "client.address": "127.0.0.1",
            "network.peer.address": "127.0.0.1", "user_agent.original": "tester/1", "charon.service": "next",
            }.items() <= chain[0].attributes.items()  # fmt: skip
    assert {**host, "server.port": 80, "http.request.method": "GET", "url.full": f"http://test.example{path}",
            "network.peer.address": "127.0.0.1", "network.peer.port": row.back.port("web"), "charon.service": "next",
            "charon.upstream": f"127.0.0.1:{row.back.port('web')}", "http.response.status_code": 200,
            }.items() <= chain[1].attributes.items()  # fmt: skip
    if format == "otlp":
        assert all(span.attributes.keys() <= KNOWN for span in chain)
        assert [span.remote for span in chain] == [False, False, True, False]


def test_each_try_is_a_span_and_the_parent_of_what_it_causes(row: Row, backend: ScriptedBackend) -> None:
    answers = [http_response(503, b"later"), http_response(200, b"now")]
    backend.serve(lambda request: answers.pop(0))
    response, trace_id = row.ask("/retry/it")
    assert response.status == 200
    server, first, second = row.collector.trace(trace_id, 3)
    assert [span.parent_id for span in (server, first, second)] == ["", server.span_id, server.span_id]
    assert first.end <= second.start
    sent = [(request.get("traceparent"), request.get("b3")) for request in backend.requests]
    assert sent == [(f"00-{trace_id}-{span.span_id}-01", f"{trace_id}-{span.span_id}-1") for span in (first, second)]
    assert [span.attributes["http.response.status_code"] for span in (server, first, second)] == [200, 503, 200]
    assert [span.attributes.get("http.request.resend_count") for span in (first, second)] == [None, 1]
    assert [span.error for span in (server, first, second)] == [False, True, False]
    assert first.attributes["error.type"] == "503" and "error.type" not in second.attributes
    assert (server.name, server.attributes["charon.route"]) == ("GET /retry", "/retry")


def test_an_endpoint_that_cannot_be_reached(row: Row) -> None:
    response, trace_id = row.ask("/dead")
    assert response.status == 502
    server, attempt = row.collector.trace(trace_id, 2)
    for span in (server, attempt):
        assert span.error and span.attributes["error.type"] == span.attributes["charon.reason"] == "connect_refused"
    assert server.attributes["http.response.status_code"] == 502
    assert "http.response.status_code" not in attempt.attributes
    line = row.front.wait_for_event("upstream_error", service="dead")
    assert (line["trace_id"], line["span_id"]) == (trace_id, server.span_id)


def test_what_a_client_did_wrong_is_no_error_of_the_servers(row: Row, backend: ScriptedBackend) -> None:
    backend.serve(http_response(404, b"no"))
    with RawClient(row.front.port("direct")) as client:
        client.request("BREW /missing")
        assert client.read_response().status == 404
    trace_id = row.front.wait_for_event("http_request", path="/missing")["trace_id"]
    server, attempt = row.collector.trace(trace_id, 2)
    assert (server.error, server.name) == (False, "HTTP"), (
        "of a method that is not known, a name would be a client's word"
    )
    assert server.attributes["http.request.method"] == "_OTHER"
    assert server.attributes["http.request.method_original"] == "BREW"
    assert attempt.error and attempt.attributes["error.type"] == "404", "to whoever asked, it is one"
    assert "error.type" not in server.attributes


def test_a_request_over_a_limit_has_a_span_and_its_lines_name_it(row: Row, backend: ScriptedBackend) -> None:
    row.ask("/once")
    response, trace_id = row.ask("/once/more")
    assert response.status == 429
    (server,) = row.collector.trace(trace_id, 1)
    assert (server.error, server.attributes["charon.reason"]) == (False, "rate_limited")
    line = row.front.wait_for_event("rate_limited", limit="/once")
    assert (line["trace_id"], line["span_id"]) == (trace_id, server.span_id)


def test_an_error_of_the_application_and_a_broken_answer(row: Row, backend: ScriptedBackend) -> None:
    backend.serve(http_response(500, b"oops"))
    _, trace_id = row.ask("/old/fails")
    server, attempt = row.collector.trace(trace_id, 2)
    assert server.error and attempt.error and server.attributes["error.type"] == "500"
    assert (server.attributes["url.path"], server.attributes["server.address"]) == ("/old/fails", "test.example")
    assert attempt.attributes["url.full"] == "http://inner.example:81/new/fails", "what was asked for in the end"
    assert (attempt.attributes["server.address"], attempt.attributes["server.port"]) == ("inner.example", 81)

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    backend.forget()
    backend.script = script
    with RawClient(row.front.port("direct")) as client, pytest.raises(Broken):
        client.get("/broken")
    trace_id = row.front.wait_for_event("http_request", path="/broken")["trace_id"]
    for span in row.collector.trace(trace_id, 2):
        assert span.error and span.attributes["error.type"] == "upstream_truncated"
        assert span.attributes["http.response.status_code"] == 200


CALLERS = {
    "traceparent": (f"traceparent: 00-{T[:-1]}1-{S}-01", f"{T[:-1]}1"),
    "b3": (f"b3: {T[:-1]}2-{S}-1", f"{T[:-1]}2"),
    "uber": (f"uber-trace-id: {T[:-1]}3:{S}:0:1", f"{T[:-1]}3"),
}


@pytest.mark.parametrize("name", CALLERS)
def test_a_callers_trace_is_joined(row: Row, backend: ScriptedBackend, name: str) -> None:
    backend.serve(http_response())
    header, expected = CALLERS[name]
    _, trace_id = row.ask(f"/old/{name}", header, "tracestate: a=1")
    assert trace_id == expected
    server, attempt = row.collector.trace(trace_id, 2)
    assert (server.parent_id, server.remote) == (S, True)
    (request,) = backend.requests
    names = [
        key.lower() for key, _ in request.headers if key.lower() in ("traceparent", "tracestate", "b3", "uber-trace-id")
    ]
    state = ["tracestate"] if name == "traceparent" else []
    assert names == ["traceparent", *state, "b3"], "one of each that is configured, and none that came"
    assert request.get("traceparent") == f"00-{trace_id}-{attempt.span_id}-01"
    assert attempt.state == server.state == ("a=1" if state else "")


def test_a_caller_that_is_not_sampled_is_passed_on_without_spans(row: Row, backend: ScriptedBackend) -> None:
    backend.serve(http_response())
    _, trace_id = row.ask("/quiet", f"traceparent: 00-{T}-{S}-00")
    line = row.front.wait_for_event("http_request", path="/quiet")
    assert (line["trace_id"], line["span_id"]) == (T, S)
    assert backend.requests[0].get("traceparent") == f"00-{T}-{S}-00", "after two of them"
    _, later = row.ask("/later")
    row.collector.trace(later, 4)
    assert not [span for span in row.collector.spans if span.trace_id == trace_id]


def test_what_is_malformed_goes_no_further(row: Row, backend: ScriptedBackend) -> None:
    backend.serve(http_response())
    bad = f"00-{T}-{'0' * 16}-01"
    _, trace_id = row.ask(
        "/old/bad", f"traceparent: {bad}", "tracestate: a=1", f"X_B3_TraceId: {T}", "uber-trace-id: x"
    )
    assert trace_id != T
    server, attempt = row.collector.trace(trace_id, 2)
    (request,) = backend.requests
    assert server.parent_id == "" and request.get("traceparent") == f"00-{trace_id}-{attempt.span_id}-01"
    assert b"tracestate" not in request.raw and b"uber" not in request.raw and b"X_B3" not in request.raw
    assert bad.encode() not in request.raw


def test_a_route_can_keep_the_context_from_its_service(row: Row, backend: ScriptedBackend) -> None:
    backend.serve(http_response())
    _, trace_id = row.ask("/bare")
    row.collector.trace(trace_id, 2)
    assert backend.requests[0].get("traceparent") is None


def test_an_answer_of_charons_own_is_a_span_and_a_scrape_is_none(row: Row) -> None:
    with RawClient(row.front.port("web")) as client:
        assert client.get("/metrics", f"traceparent: 00-{T[:-1]}9-{S}-01").status == 200
    response, trace_id = row.ask("/none")
    assert response.status == 302
    (server,) = row.collector.trace(trace_id, 1)
    assert (server.error, server.attributes["http.response.status_code"]) == (False, 302)
    with RawClient(row.front.port("web")) as client:
        scraped = client.get("/metrics", "Accept: application/openmetrics-text; version=1.0.0").body
    assert f'trace_id="{trace_id}"'.encode() in scraped, "the newest of its bucket is its example"
    assert not [span for span in row.collector.spans if span.trace_id == f"{T[:-1]}9"]
    exported = eventually(lambda: total(row.front.metrics(), EXPORTED, exporter="jaeger"))
    assert exported and total(row.front.metrics(), DROPPED) == 0


def test_an_exporter_that_dies_is_replaced(row: Row, backend: ScriptedBackend) -> None:
    backend.serve(http_response())
    pid = exporter_of(row.back)
    os.kill(pid, signal.SIGKILL)
    assert row.back.wait_for_event("tracing_exporter_died", pid=pid)["how"] == "signal 9"
    _, trace_id = row.ask("/after", charon=row.back)
    row.collector.trace(trace_id, 2)
    assert exporter_of(row.back) != pid


def exporter_of(charon: CharonProcess) -> int:
    """The process that exports a Charon's spans, once there is one."""

    def look() -> int:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
            if b"charon.daemon.span_exporter" in command and parent == charon.pid:
                return int(folder.name)
        return 0

    return eventually(look)


def test_a_collector_that_hangs_costs_spans_and_nothing_else(start_charon: StartCharon) -> None:
    with Collector() as collector:
        collector.gate.clear()
        route = {"path": "/", "redirect": {"path": "/there"}}
        config = {
            "listeners": [{"name": "web", "address": "127.0.0.1:0", "routes": [route]}],
            "tracing": {"enabled": True, "otlp_endpoint": f"http://127.0.0.1:{collector.port}/"},
            "logging": {"access_log": False},
        }
        charon = start_charon(config)
        pid = exporter_of(charon)
        with RawClient(charon.port("web")) as client:
            client.get()
            collector.wait_for_requests(1)  # which is not answered while all of these are
            for _ in range(CAPACITY // 100 + 1):
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
                for _ in range(100):
                    client.recv_until(b"Location: http://a/there\r\n")
        eventually(lambda: sample(charon.metrics(), DROPPED, reason="exporter_queue_full"))
        assert charon.stop(timeout=6.0) == 0
        assert not alive(pid)


def test_tracing_comes_goes_and_moves_with_a_reload(start_charon: StartCharon, backend: ScriptedBackend) -> None:
    backend.serve(http_response())
    with Collector() as collector:
        config: dict[str, Any] = {
            "listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_addr": backend.address}],
            "tracing": {"enabled": True, "propagation": "b3multi"},
        }
        charon = start_charon(config)

        def reload(**tracing: Any) -> None:
            mark = charon.mark()
            charon.write_config({**config, "tracing": tracing})
            charon.signal(signal.SIGHUP)
            charon.wait_for_event("config_reloaded", since=mark)

        with RawClient(charon.port("web")) as client:

            def ask(path: str) -> Request:
                client.get(path)
                return backend.requests[-1]

            sent = ask("/alone")
            line = charon.wait_for_event("http_request", path="/alone")
            assert (sent.get("X-B3-TraceId"), sent.get("X-B3-SpanId")) == (line["trace_id"], line["span_id"])
            assert sent.get("X-B3-Sampled") == "1", "without an endpoint spans are not made, and all else is the same"

            reload(enabled=True, otlp_endpoint=f"http://{refused_address()}/v1/traces")
            ask("/lost")
            failed = charon.wait_for_event("tracing_export_failed", exporter="otlp")
            assert "refused" in failed["error"]

            reload(enabled=True, otlp_endpoint=f"http://127.0.0.1:{collector.port}/v1/traces", service_name="moved")
            ask("/found")
            trace_id = charon.wait_for_event("http_request", path="/found")["trace_id"]
            assert {span.service for span in collector.trace(trace_id, 2)} == {"moved"}

            reload(enabled=False)
            assert ask("/off").get("traceparent") is None
            assert "trace_id" not in charon.wait_for_event("http_request", path="/off")
