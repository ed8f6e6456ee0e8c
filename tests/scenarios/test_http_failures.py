"""What goes wrong behind or in front of Charon, and what each side sees of it."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import (
    Connection,
    Script,
    ScriptedBackend,
    answering,
    black_hole,
    chunked,
    http_response,
    refused_address,
)
from tests.harness.charon import CharonProcess, LogLine, sample
from tests.harness.client import Broken, RawClient, Response
from tests.harness.waiting import eventually


@pytest.fixture(scope="module")
def silence() -> Iterator[str]:
    with black_hole() as address:
        yield address


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend, silence: str) -> CharonProcess:
    def listener(name: str, service: str = "app", **timeouts: str) -> dict[str, object]:
        return {"name": name, "address": "127.0.0.1:0", "target_service_name": service, "timeouts": timeouts}

    return start_shared_charon(
        {
            "listeners": [
                listener("web"),
                listener("refused", "refused"),
                listener("silent", "silent", connect="200ms"),
                listener("never", "silent", connect="60s"),
                listener("slow-head", response_headers="200ms"),
                listener("deadline", request="300ms"),
                listener("silent-deadline", "silent", request="300ms"),
                listener("idle", idle="200ms"),
                listener("client-header", client_header="200ms"),
            ]
        },
        {"app": shared_backend.address, "refused": refused_address(), "silent": silence},
    )


@pytest.fixture
def client(charon: CharonProcess) -> Iterator[RawClient]:
    with RawClient(charon.port("web")) as client:
        yield client


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def expect_error(response: Response, status: int, reason: str) -> None:
    """An answer of Charon's own, as every one of them looks."""
    assert (response.status, response.error) == (status, reason)
    assert response.body.startswith(reason.encode() + b": ") and response.body.count(b"\n") == 1
    assert response.get("Content-Type") == "text/plain; charset=utf-8"


def access_line(charon: CharonProcess, since: int, path: str = "") -> LogLine:
    """The only access line since ``since``; that of a request without a valid head has no path."""
    line = charon.wait_for_event("http_request", since=since, path=path)
    assert len([line for line in charon.log_lines()[since:] if line["message"] == "http_request"]) == 1
    return line


# -- the client leaves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_while_it_waits_ends_the_upstream_request(
    charon: CharonProcess, backend: ScriptedBackend, how: str
) -> None:
    asked, left = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        asked.set()
        connection.wait_for_end()
        left.set()

    backend.script = script
    mark = charon.mark("refused")
    client = RawClient(charon.port("web"))
    client.request("GET /left")
    wait(asked)
    client.close() if how == "close" else client.reset()
    assert left.wait(2.0), "within about a second"
    line = access_line(charon, mark, path="/left")
    assert (line["status"], line["reason"], line["upstream"]) == (499, "client_abort", backend.address)
    errors = [line for line in charon.log_lines()[mark:] if line["message"] == "upstream_error"]
    assert not errors, "the upstream is not to blame"


def test_a_client_that_leaves_in_the_middle_of_its_answer_ends_the_upstream_request(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    left = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                connection.send_chunk(b"x" * 65_536)
        except ConnectionError:
            left.set()

    backend.script = script
    mark = charon.mark("refused")
    client = RawClient(charon.port("web"))
    client.request("GET /left")
    client.read_chunk() if client.read_head().status == 200 else None
    client.close()
    wait(left)
    line = access_line(charon, mark, path="/left")
    assert (line["status"], line["reason"]) == (200, "client_abort")


def test_a_client_that_leaves_in_its_request_head_is_499(charon: CharonProcess, backend: ScriptedBackend) -> None:
    mark = charon.mark("refused")
    client = RawClient(charon.port("web"))
    client.send("GET /never HTTP/1.1\r\nHost:")
    client.close()
    line = access_line(charon, mark)
    assert (line["status"], line["reason"]) == (499, "client_abort")
    assert not backend.connections


# -- pooled connections -------------------------------------------------------------------------------------------


def test_a_connection_that_the_upstream_closed_between_requests_is_not_used(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(http_response(200, b"%d" % connection.number))

    backend.script = script
    mark = charon.mark("refused")
    for number in range(5):
        assert client.post("/", b"x").body == b"%d" % number
        eventually(lambda: backend.connections[-1].sock.fileno() < 0)  # closed, before the next request comes
    lines = charon.wait_for_events("http_request", 5, since=mark)
    assert [line["retries"] for line in lines] == [0] * 5


def stale_once(seen: list[str]) -> Script:
    """The first connection answers once, and closes on the next request instead of answering it."""

    def script(connection: Connection) -> None:
        while True:
            request = connection.read_request()
            seen.append(request.method)
            if connection.number == 0 and len(seen) > 1:
                return
            connection.send(http_response(200, b"%d" % connection.number))

    return script


def test_a_get_that_meets_a_stale_connection_is_sent_again_unseen(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    seen: list[str] = []
    backend.script = stale_once(seen)
    assert client.get("/fresh").body == b"0"
    assert client.get("/stale").body == b"1"
    assert seen == ["GET", "GET", "GET"]
    line = charon.wait_for_event("http_request", path="/stale")
    assert (line["status"], line["retries"]) == (200, 1) and "reason" not in line


def test_a_post_that_meets_a_stale_connection_is_never_delivered_twice(
    client: RawClient, backend: ScriptedBackend
) -> None:
    seen: list[str] = []
    backend.script = stale_once(seen)
    assert client.get().body == b"0"
    expect_error(client.post("/", b"order"), 502, "upstream_reset")
    assert seen == ["GET", "POST"]
    assert client.get().body == b"1", "the client's connection goes on"


def test_a_get_is_not_sent_again_after_part_of_an_answer(client: RawClient, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-")

    backend.script = script
    expect_error(client.get(), 502, "upstream_reset")
    assert len(backend.connections) == 1


def test_bytes_behind_an_answer_never_reach_the_next_client(charon: CharonProcess, backend: ScriptedBackend) -> None:
    poison = http_response(200, b"poison")
    backend.script = answering(http_response(200, b"clean") + poison)
    for _ in range(3):
        with RawClient(charon.port("web")) as client:
            assert client.get().body == b"clean"
            assert client.get().body == b"clean"
    assert len(backend.connections) == 6


def test_bytes_that_come_after_an_answer_never_reach_the_next_client(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    poisoned, go_on = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(http_response(200, b"clean"))
        if connection.number == 0:
            wait(go_on)
            connection.send(http_response(200, b"poison"))
            poisoned.set()
        connection.wait_for_end()

    backend.script = script
    assert client.get().body == b"clean"
    go_on.set()
    wait(poisoned)
    assert client.get().body == b"clean"
    assert len(backend.connections) == 2


# -- broken answers -----------------------------------------------------------------------------------------------

BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npartial",
    "before the last CRLF": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n0\r\n",
    "until close": b"HTTP/1.1 200 OK\r\n\r\npartial",
}


def read_rest(client: RawClient, head: Response, data: bytes) -> None:
    """Read to the end as a careful client: raises unless the body, which begins with ``data``, is whole."""
    data += client.read_until_close()
    length = head.get("Content-Length")
    if length is not None and len(data) < int(length):
        raise Broken("shorter than its length", data)
    if head.get("Transfer-Encoding") is not None and not data.endswith(b"0\r\n\r\n"):
        raise Broken("no last chunk", data)


# A body until close has no other end than a close; only a reset breaks it.
WAYS = [(name, how) for name in BROKEN for how in ("close", "reset") if (name, how) != ("until close", "close")]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("name", "how"), WAYS)
def test_a_broken_answer_never_looks_complete(
    charon: CharonProcess, backend: ScriptedBackend, name: str, how: str, version: str
) -> None:
    arrived = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(BROKEN[name])
        wait(arrived)
        if how == "reset":
            connection.reset()

    backend.script = script
    mark = charon.mark("refused")
    with RawClient(charon.port("web")) as client:
        client.send(f"GET /broken HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n")
        head = client.read_head()
        assert head.status == 200
        data = client.recv()
        arrived.set()
        with pytest.raises((Broken, ConnectionError)):
            read_rest(client, head, data)
    line = access_line(charon, mark, path="/broken")
    assert (line["status"], line["reason"], line["size_bytes"]) == (200, "upstream_truncated", 7)


def test_a_malformed_chunk_in_the_middle_of_an_answer_breaks_it(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend
) -> None:
    arrived = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n")
        wait(arrived)
        connection.send(b"nonsense\r\n0\r\n\r\n")
        connection.wait_for_end()

    backend.script = script
    mark = charon.mark("refused")
    client.request("GET /broken")
    client.read_head()
    assert client.read_chunk() == b"good"
    arrived.set()
    with pytest.raises((Broken, ConnectionError)):
        client.read_chunk()
    assert access_line(charon, mark, "/broken")["reason"] == "upstream_malformed"


def test_a_broken_answer_ends_no_other(charon: CharonProcess, backend: ScriptedBackend) -> None:
    """The client of a broken answer loses its connection; a pipelined request behind it is not answered from it."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial")

    backend.script = script
    with RawClient(charon.port("web")) as client:
        client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_head().status == 200
        with pytest.raises(Broken) as broken:
            client.recv_exactly(100)
        assert broken.value.partial == b"partial"
    assert b"/2" not in backend.received()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_upstream_that_closes_instead_of_answering_is_502(
    client: RawClient, backend: ScriptedBackend, how: str
) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        if how == "reset":
            connection.reset()

    backend.script = script
    expect_error(client.post("/", b"once"), 502, "upstream_reset")
    assert len(backend.connections) == 1


def test_an_upstream_that_switches_protocols_unasked_is_502(client: RawClient, backend: ScriptedBackend) -> None:
    backend.script = answering(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    expect_error(client.get(), 502, "upstream_malformed")


# -- upstreams that cannot be reached, or not in time -----------------------------------------------------------------


def test_a_refused_connection_is_502(charon: CharonProcess) -> None:
    mark = charon.mark("refused")
    with RawClient(charon.port("refused")) as client:
        expect_error(client.get("/refused"), 502, "connect_refused")
        expect_error(client.post("/refused", b"x"), 502, "connect_refused")
    lines = charon.wait_for_events("http_request", 2, since=mark, path="/refused", reason="connect_refused")
    assert [(line["status"], line["retries"]) for line in lines] == [(502, 0)] * 2, "there is nothing else to try"
    errors = [line for line in charon.log_lines()[mark:] if line["message"] == "upstream_error"]
    assert [(e["service"], e["upstream"], e["reason"], e["tries"]) for e in errors] == [
        ("refused", lines[0]["upstream"], "connect_refused", 1)
    ] * 2


def test_a_connection_that_does_not_come_about_is_504(charon: CharonProcess) -> None:
    with RawClient(charon.port("silent")) as client:
        expect_error(client.get(), 504, "connect_timeout")


def silent_after_reading(connection: Connection) -> None:
    connection.read_request()
    connection.wait_for_end()


@pytest.mark.parametrize(("listener", "reason"), [("slow-head", "response_timeout"), ("deadline", "request_deadline")])
def test_an_answer_that_does_not_come_is_504(
    charon: CharonProcess, backend: ScriptedBackend, listener: str, reason: str
) -> None:
    backend.script = silent_after_reading
    mark = charon.mark("refused")
    with RawClient(charon.port(listener)) as client:
        expect_error(client.get("/slow"), 504, reason)
        backend.serve(http_response(200, b"quick"))
        assert client.get("/quick").body == b"quick", "the client's connection goes on"
    line = charon.wait_for_event("http_request", since=mark, path="/slow")
    assert (line["status"], line["reason"], line["retries"]) == (504, reason, 0)
    assert charon.wait_for_event("upstream_error", since=mark)["reason"] == reason


def test_the_deadline_of_a_request_holds_while_connecting(charon: CharonProcess) -> None:
    mark = charon.mark("refused")
    with RawClient(charon.port("silent-deadline")) as client:
        expect_error(client.get("/connecting"), 504, "request_deadline")
    line = access_line(charon, mark, path="/connecting")
    assert line["latency_ms"] < 4000, "the connect timeout alone is 5 s"


def test_the_deadline_of_a_request_holds_while_its_body_stalls(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    for _ in range(5):
        with RawClient(charon.port("deadline")) as client:
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npartial")
            expect_error(client.read_response(), 504, "request_deadline")
            assert client.ended()
    assert not backend.requests


def test_a_client_that_takes_nothing_of_its_answer_is_left(charon: CharonProcess, backend: ScriptedBackend) -> None:
    left = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                connection.send(bytes(65_536))
        except ConnectionError:
            left.set()

    backend.script = script
    mark = charon.mark("refused")
    with RawClient(charon.port("idle"), receive_buffer=4096) as client:
        client.request("GET /untaken")
        wait(left)
        line = access_line(charon, mark, path="/untaken")
    assert (line["status"], line["reason"]) == (200, "client_too_slow")


def test_a_response_head_that_trickles_is_504(charon: CharonProcess, backend: ScriptedBackend) -> None:
    ended = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n")
        connection.sock.settimeout(0.05)
        while not ended.is_set():
            connection.send(b"X-More: of it\r\n")
            try:
                if not connection.recv():
                    ended.set()
            except TimeoutError:
                continue

    backend.script = script
    with RawClient(charon.port("slow-head")) as client:
        expect_error(client.get(), 504, "response_timeout")
    wait(ended)


def test_a_deadline_in_the_middle_of_an_answer_breaks_it(charon: CharonProcess, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial")
        connection.wait_for_end()

    backend.script = script
    for listener, reason in (("deadline", "request_deadline"), ("idle", "upstream_idle")):
        mark = charon.mark("refused")
        with RawClient(charon.port(listener)) as client, pytest.raises(Broken):
            client.get("/stalled")
        line = access_line(charon, mark, path="/stalled")
        assert (line["status"], line["reason"], line["size_bytes"]) == (200, reason, 7)


def test_a_request_body_that_stalls_is_408(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    with RawClient(charon.port("idle")) as client:
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npartial")
        response = client.read_response()
        expect_error(response, 408, "client_too_slow")
        assert response.get("Connection") == "close" and client.ended()
    assert not backend.requests


def test_an_upstream_that_takes_no_body_is_504(charon: CharonProcess, backend: ScriptedBackend) -> None:
    done = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        wait(done)

    backend.script = script
    with RawClient(charon.port("idle")) as client:
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sock.setblocking(False)
        block = b"10000\r\n" + bytes(65_536) + b"\r\n"
        rest = memoryview(block)
        while True:
            try:
                rest = rest[client.sock.send(rest) :] or memoryview(block)
            except BlockingIOError:
                readable, _, _ = select.select([client.sock], [client.sock], [], PATIENCE)
                if readable:
                    break  # that is the answer
        client.sock.settimeout(PATIENCE)
        done.set()
        expect_error(client.read_response(), 504, "upstream_idle")


def test_a_request_head_that_does_not_come_is_408(charon: CharonProcess, backend: ScriptedBackend) -> None:
    mark = charon.mark("refused")
    with RawClient(charon.port("client-header")) as client:
        client.send("GET / HTTP/1.1\r\nHost: a\r\n")
        response = client.read_response()
        expect_error(response, 408, "request_timeout")
        assert response.get("Connection") == "close" and client.ended()
    assert access_line(charon, mark)["reason"] == "request_timeout"
    assert not backend.connections


def test_a_trickled_request_head_is_408_all_the_same(charon: CharonProcess) -> None:
    with RawClient(charon.port("client-header")) as client:
        client.send("GET / HTTP/1.1\r\n")
        client.sock.settimeout(0.05)
        answer = b""
        while not answer:
            try:
                answer = client.recv()
            except TimeoutError:
                client.send("X-More: of it\r\n")
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("requests", [0, 1])
def test_an_idle_connection_is_closed_without_a_word(
    charon: CharonProcess, backend: ScriptedBackend, requests: int
) -> None:
    backend.serve(http_response(200, b"x"))
    mark = charon.mark("refused")
    with RawClient(charon.port("idle" if requests else "client-header")) as client:
        for _ in range(requests):
            assert client.get().body == b"x"
        assert client.ended()
    # Whatever is logged comes before the line of a later request.
    with RawClient(charon.port("web")) as client:
        client.get("/after")
    charon.wait_for_event("http_request", since=mark, path="/after")
    lines = [line for line in charon.log_lines()[mark:] if line["message"] == "http_request"]
    assert len(lines) == requests + 1


@pytest.mark.parametrize("behind", [True, False], ids=["behind the body", "by itself"])
def test_an_empty_line_between_requests_begins_none(
    charon: CharonProcess, backend: ScriptedBackend, behind: bool
) -> None:
    """Old browsers send one after a body; the wait for a request head does not start with it."""
    backend.serve(lambda request: http_response(200, request.target.encode()))
    with RawClient(charon.port("client-header")) as client:
        for number in range(3):
            head = f"POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
            client.send(head + "\r\n" if behind else head)
            assert client.read_response().body == f"/{number}".encode()
            if not behind:
                client.send("\r\n")
    mark = charon.mark("refused")
    with RawClient(charon.port("idle")) as client:
        client.send("POST /last HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\r\n")
        assert client.read_response().body == b"/last"
        assert client.ended(), "closed as an idle connection is, without an answer that nobody asked for"
    access_line(charon, mark, "/last")


# -- an error answer and its connection -------------------------------------------------------------------


def test_an_error_answer_to_head_has_no_body(charon: CharonProcess) -> None:
    with RawClient(charon.port("refused")) as client:
        client.request("HEAD /")
        response = client.read_response("HEAD")
        assert (response.status, response.error) == (502, "connect_refused")
        client.request("HEAD /")
        assert client.read_response("HEAD").status == 502


def test_a_body_that_was_not_read_is_never_taken_for_a_request(charon: CharonProcess, backend: ScriptedBackend) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with RawClient(charon.port("refused")) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + smuggled)
        response = client.read_response()
        expect_error(response, 502, "connect_refused")
        assert response.get("Connection") == "close"
        client.send(smuggled)
        assert client.ended()


def test_chunked_body_then_a_request_after_an_error(charon: CharonProcess) -> None:
    with RawClient(charon.port("refused")) as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"body")
            + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        )  # fmt: skip
        expect_error(client.read_response(), 502, "connect_refused")
        expect_error(client.read_response(), 502, "connect_refused")


@pytest.mark.parametrize("leave", [RawClient.reset, RawClient.close], ids=["reset", "close"])
def test_a_client_that_leaves_while_an_upstream_is_dialled_is_noticed(
    charon: CharonProcess, leave: Callable[[RawClient], None]
) -> None:
    mark = charon.mark("refused")
    client = RawClient(charon.port("never"))
    client.request("GET /dialled")
    eventually(lambda: sample(charon.metrics(), "charon_http_requests_in_flight", listener="never") == 1)
    leave(client)
    line = charon.wait_for_event("http_request", since=mark, path="/dialled")
    assert (line["status"], line["reason"]) == (499, "client_abort")
