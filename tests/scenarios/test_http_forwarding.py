"""What a request and its answer look like on the other side of Charon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Connection, Program, ScriptedBackend, chunked, http_response
from tests.harness.charon import CharonProcess
from tests.harness.client import RawClient


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    return start_shared_charon(
        {
            "target_service_name": "app",
            "listeners": [
                {"name": "web", "address": "127.0.0.1:0"},
                {"name": "behind-proxy", "address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8"]},
            ],
        },
        {"app": shared_backend.address},
    )


@pytest.fixture
def client(charon: CharonProcess) -> Iterator[RawClient]:
    with RawClient(charon.port("web")) as client:
        yield client


# -- requests -----------------------------------------------------------------------------------------------------


def test_get_goes_through(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"hello", "X-App: yes", "Content-Type: text/plain", reason="Fine"))
    response = client.get("/a/b?c=d&e", "Accept: text/*", "X-Thing: 1", "X-Thing: 2")
    assert (response.status, response.reason, response.body) == (200, "Fine", b"hello")
    assert response.get("X-App") == "yes" and response.get("Content-Type") == "text/plain"
    assert response.get("Date"), "a proxy adds the Date that the origin left out"
    assert response.error is None
    [request] = backend.requests
    assert (request.method, request.target, request.version) == ("GET", "/a/b?c=d&e", "HTTP/1.1")
    assert request.get("Accept") == "text/*" and request.values("X-Thing") == ["1", "2"]
    assert request.get("Content-Length") is None and request.get("Transfer-Encoding") is None


def test_post_goes_through_with_its_body(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(lambda request: http_response(201, request.body.upper()))
    response = client.post("/things", b"some words", "Content-Type: text/plain")
    assert (response.status, response.body) == (201, b"SOME WORDS")
    [request] = backend.requests
    assert (request.method, request.body, request.get("Content-Type")) == ("POST", b"some words", "text/plain")


def test_post_without_a_body_says_so(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    assert client.post("/", b"").status == 200
    assert backend.requests[0].get("Content-Length") == "0"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_go_through(client: RawClient, backend: ScriptedBackend, method: str) -> None:
    backend.serve(http_response(200, b"ok"))
    client.request(f"{method} /x")
    assert client.read_response().status == 200
    assert backend.requests[0].method == method


def test_host_is_preserved(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.request("GET /", host="shop.example:8443")
    client.read_response()
    assert backend.requests[0].values("Host") == ["shop.example:8443"]


def test_hop_by_hop_fields_of_a_request_stay_behind(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.get(
        "/", "Connection: keep-alive, X-Hop", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "X-Hop: gone",
        "X-Kept: here", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "TE: gzip",
    )  # fmt: skip
    [request] = backend.requests
    assert request.get("X-Kept") == "here"
    for name in ("Connection", "Keep-Alive", "Proxy-Connection", "X-Hop", "Upgrade", "HTTP2-Settings", "TE"):
        assert request.get(name) is None, name


def test_connection_cannot_name_away_what_frames_or_identifies(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.request(
        "POST /", "Connection: close, Content-Length, Host, X-Forwarded-For, Authorization", "Authorization: me",
        body=b"body",
    )  # fmt: skip
    client.read_response()
    [request] = backend.requests
    assert request.body == b"body" and request.get("Host") == "test.example"
    assert request.get("X-Forwarded-For") == "127.0.0.1" and request.get("Authorization") == "me"


def test_hop_by_hop_fields_of_an_answer_stay_behind(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(
        http_response(
            200, b"x", "Connection: X-Hop, keep-alive", "Keep-Alive: timeout=5", "X-Hop: gone", "X-Kept: here",
            "Proxy-Connection: keep-alive",
        )
    )  # fmt: skip
    response = client.get()
    assert response.get("X-Kept") == "here"
    for name in ("Connection", "Keep-Alive", "X-Hop", "Proxy-Connection"):
        assert response.get(name) is None, name


def test_forwarding_fields_say_where_a_request_came_from(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.get()
    [request] = backend.requests
    assert request.values("X-Forwarded-For") == ["127.0.0.1"]
    assert request.values("X-Forwarded-Proto") == ["http"]
    assert request.values("X-Forwarded-Host") == ["test.example"]
    via = request.get("Via")
    assert via is not None and via.startswith("1.1 charon-")


CLAIMS = ("X-Forwarded-For: 10.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: else.example",
          "X-Forwarded-Port: 443", "X-Real-IP: 10.1.1.1", "Forwarded: for=10.1.1.1", "Via: 1.0 edge")  # fmt: skip


def test_what_any_client_claims_of_its_origin_is_replaced(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.get("/", *CLAIMS)
    [request] = backend.requests
    assert request.values("X-Forwarded-For") == ["127.0.0.1"]
    assert request.values("X-Forwarded-Proto") == ["http"]
    assert request.values("X-Forwarded-Host") == ["test.example"]
    for name in ("X-Forwarded-Port", "X-Real-IP", "Forwarded"):
        assert request.get(name) is None, name
    via = request.get("Via")
    assert via is not None and via.startswith("1.0 edge, 1.1 charon-")


def test_what_a_trusted_proxy_says_of_the_origin_is_continued(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    with RawClient(charon.port("behind-proxy")) as client:
        client.get("/", *CLAIMS)
    [request] = backend.requests
    assert request.values("X-Forwarded-For") == ["10.1.1.1, 127.0.0.1"]
    assert request.values("X-Forwarded-Proto") == ["https"]
    assert request.values("X-Forwarded-Host") == ["else.example"]
    assert request.values("X-Forwarded-Port") == ["443"]


def test_a_request_that_comes_round_again_is_answered_508(start_charon: StartCharon, tmp_path: Path) -> None:
    path = Path("/tmp") / f"charon-loop-{tmp_path.name[-20:]}-{id(tmp_path):x}"
    charon = start_charon(
        {"listeners": [{"name": "loop", "address": f"unix:{path}", "target_service_addr": f"unix:{path}"}]}
    )
    with RawClient(str(path)) as client:
        response = client.get("/round")
    assert (response.status, response.error) == (508, "loop_detected")
    lines = charon.wait_for_events("http_request", 2, path="/round")
    assert sorted(line.get("reason", "") for line in lines) == ["", "loop_detected"]


def test_an_absolute_target_wins_over_host(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.request("GET http://inside.example:81/x?y", host="outside.example")
    assert client.read_response().status == 200
    [request] = backend.requests
    assert (request.target, request.values("Host")) == ("/x?y", ["inside.example:81"])


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("/a/../b", "/b"),
        ("/a/./b/", "/a/b/"),
        ("/%61%7Eb", "/a~b"),
        ("/a/%2e%2e/b", "/b"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a%2Fb", "/a%2Fb"),
        ("//a//b", "//a//b"),
        ("/a?x=../y&z=%61", None),
    ],
)
def test_the_backend_sees_a_path_in_one_spelling(
    client: RawClient, backend: ScriptedBackend, sent: str, seen: str | None
) -> None:
    backend.serve(http_response(200))
    assert client.get(sent).status == 200
    target = backend.requests[0].target
    if seen is None:
        assert target.startswith("/a?x=../y&z=")
    else:
        assert target == seen


def test_options_star_goes_through(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.request("OPTIONS *")
    assert client.read_response().status == 200
    assert backend.requests[0].target == "*"


# -- answers without a body ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n'),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_an_answer_without_a_body_is_followed_by_the_next_one(
    client: RawClient, backend: ScriptedBackend, method: str, answer: bytes
) -> None:
    backend.serve(lambda request: answer if request.target == "/first" else http_response(200, b"second"))
    client.request(f"{method} /first")
    first = client.read_response(method)
    assert first.status == int(answer.split()[1])
    if b"1000" in answer:
        assert first.get("Content-Length") == "1000"
    assert client.get("/second").body == b"second"
    if b"Length" in answer or b"304" in answer or b"204" in answer:
        assert len(backend.connections) == 1, "the upstream connection is used again, too"


# -- HTTP/1.0 -----------------------------------------------------------------------------------------------------


def test_an_http10_client_gets_an_answer_that_ends_with_the_connection(
    client: RawClient, backend: ScriptedBackend
) -> None:
    backend.serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"one ", b"two"))
    client.send("GET /old HTTP/1.0\r\n\r\n")
    response = client.read_response()
    assert (response.body, response.closed) == (b"one two", True)
    assert response.get("Transfer-Encoding") is None
    [request] = backend.requests
    assert (request.version, request.values("Host")) == ("HTTP/1.1", ["app"])


def test_an_http10_client_may_keep_its_connection(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"again"))
    for _ in range(2):
        client.send("GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n")
        response = client.read_response()
        assert response.body == b"again" and response.get("Connection") == "keep-alive"


def test_an_http10_client_that_does_not_ask_to_keep_its_connection_loses_it(
    client: RawClient, backend: ScriptedBackend
) -> None:
    backend.serve(http_response(200, b"once"))
    client.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
    response = client.read_response()
    assert response.body == b"once" and response.get("Connection") == "close"
    assert client.ended()


def test_interim_answers_are_kept_from_an_http10_client(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + http_response(200, b"final"))
    client.send("GET / HTTP/1.0\r\n\r\n")
    assert client.read_head().status == 200


def test_an_http10_upstream_is_understood(client: RawClient, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil ")
        connection.send(b"close")

    backend.script = script
    response = client.get()
    assert (response.version, response.body) == ("HTTP/1.1", b"until close")
    assert client.get().body == b"until close"
    assert len(backend.connections) == 2


def test_an_http10_upstream_may_keep_its_connection(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"kept", "Connection: keep-alive", version="1.0"))
    assert client.get().body == client.get().body == b"kept"
    assert len(backend.connections) == 1


def test_an_answer_until_close_is_chunked_for_an_http11_client(client: RawClient, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nall there ")
        connection.send(b"is")

    backend.script = script
    response = client.get()
    assert response.get("Transfer-Encoding") == "chunked" and response.body == b"all there is"
    assert response.get("Connection") is None, "the client's connection goes on"
    assert client.get().body == b"all there is"


# -- keep-alive ---------------------------------------------------------------------------------------------------


def test_both_connections_are_kept(charon: CharonProcess, client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(lambda request: http_response(200, request.target.encode()))
    assert [client.get(f"/{n}").body for n in range(5)] == [b"/%d" % n for n in range(5)]
    with RawClient(charon.port("web")) as other:
        assert other.get("/other").body == b"/other"
    assert len(backend.connections) == 1


def test_pipelined_requests_are_answered_in_order(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(lambda request: http_response(200, request.target.encode() + request.body))
    client.send(
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n"
        b"GET /4 HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert [client.read_response().body for _ in range(4)] == [b"/1", b"/2abc", b"/3def", b"/4"]
    assert [request.target for request in backend.requests] == ["/1", "/2", "/3", "/4"]


def test_a_request_that_arrives_byte_by_byte_is_one_request(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(lambda request: http_response(200, request.body))
    for byte in b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n":
        client.send(bytes([byte]))
    assert client.read_response().body == b"hello"
    assert len(backend.requests) == 1


def test_connection_close_is_obeyed(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"last"))
    response = client.get("/", "Connection: close")
    assert response.body == b"last" and response.get("Connection") == "close"
    assert client.ended()


def test_an_upstream_that_says_close_is_not_used_again(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"bye", "Connection: close"))
    first = client.get()
    assert first.body == b"bye" and first.get("Connection") is None
    assert client.get().body == b"bye"
    assert len(backend.connections) == 2


# -- the shipped backend, the metrics ---------------------------------------------------------------------------


def test_the_shipped_backend_works_behind_charon(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon({"listen_port": 0, "target_service_addr": http_backend.address})
    with RawClient(charon.port()) as client:
        described = client.get("/some/path").body.decode()
        assert "method: GET" in described and "path: /some/path" in described
        assert client.get("/fail").status == 500
        assert client.get("/status/418").status == 418
        assert client.get("/stream?chunks=3&ms=0").body.count(b"\n") == 3
        body = client.get("/bytes/100000").body
        assert body == bytes(i % 251 for i in range(100_000))
    with RawClient(charon.port(), host="::1") as client:
        assert client.get().status == 200, "a port alone means IPv4 and IPv6"


def test_metrics_are_answered_on_the_listener(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    mark = charon.mark()
    response = client.get("/metrics")
    assert response.status == 200 and b"charon_build_info" in response.body
    assert client.get("/after").status == 200
    charon.wait_for_event("http_request", since=mark, path="/after")
    assert not [line for line in charon.log_lines()[mark:] if line.get("path") == "/metrics"]
    assert backend.received().count(b"GET ") == 1, "a scrape is not traffic"


def test_a_status_is_json_on_the_admin_socket(charon: CharonProcess) -> None:
    status, body = charon.admin("/api/status")
    assert status == 200 and json.loads(body)["ready"] is True
