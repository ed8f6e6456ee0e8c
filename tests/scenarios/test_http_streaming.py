"""Bodies on their way: at once, both ways, byte-exact, and with no more memory than they need."""

from __future__ import annotations

import hashlib
import random
import select
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Closed, Connection, ScriptedBackend, answering, chunked, http_response
from tests.harness.charon import CharonProcess, resident_bytes
from tests.harness.client import RawClient

BIG = random.Random(20).randbytes(10 << 20)
BIG_SUM = hashlib.sha256(BIG).hexdigest()
STALL = 0.3
"""Seconds without room to send after which a sender counts as held up."""


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    return start_shared_charon(
        {
            "target_service_name": "app",
            "timeouts": {"client_fin": "30s"},
            "listeners": [{"name": "web", "address": "127.0.0.1:0"}],
        },
        {"app": shared_backend.address},
    )


@pytest.fixture
def client(charon: CharonProcess) -> Iterator[RawClient]:
    with RawClient(charon.port("web")) as client:
        yield client


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


# -- interim answers ----------------------------------------------------------------------------------------------


def test_the_100_of_the_upstream_is_relayed_before_the_body_is_sent(
    client: RawClient, backend: ScriptedBackend
) -> None:
    seen: list[str | None] = []

    def script(connection: Connection) -> None:
        head = connection.read_head()
        seen.append(head.get("Expect"))
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = connection.recv_exactly(int(head.get("Content-Length") or 0))
        connection.send(http_response(200, body[::-1]))
        connection.wait_for_end()

    backend.script = script
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert client.read_head().status == 100
    client.send("body")
    assert client.read_response().body == b"ydob"
    assert seen == ["100-continue"]


@pytest.mark.parametrize("status", [417, 401, 413])
def test_an_upstream_that_refuses_the_expectation_is_heard_at_once(
    client: RawClient, backend: ScriptedBackend, status: int
) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(http_response(status, b"no"))
        connection.wait_for_end()

    backend.script = script
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    response = client.read_response()
    assert (response.status, response.body, response.get("Connection")) == (status, b"no", "close")
    assert client.ended(), "whether the body still comes cannot be known, so nothing may follow"


def test_a_client_that_does_not_wait_for_100_is_served(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(lambda request: http_response(200, request.body))
    client.request("POST /", "Expect: 100-continue", body=b"right away")
    assert client.read_response().body == b"right away"
    assert client.get().status == 200


def test_early_hints_are_relayed_at_once(client: RawClient, backend: ScriptedBackend) -> None:
    hinted = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        wait(hinted)
        connection.send(http_response(200, b"page"))
        connection.wait_for_end()

    backend.script = script
    client.request("GET /")
    interim = client.read_head()
    assert (interim.status, interim.get("Link")) == (103, "</style.css>; rel=preload")
    hinted.set()
    assert client.read_response().body == b"page"


def test_interim_and_final_answer_in_one_packet_are_two(client: RawClient, backend: ScriptedBackend) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    backend.script = answering(hints + hints + http_response(200, b"final"))
    client.request("GET /")
    assert [client.read_head().status, client.read_head().status] == [103, 103]
    assert client.read_response().body == b"final"


# -- chunks and trailers ------------------------------------------------------------------------------------------


def test_trailers_go_up(client: RawClient, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200))
    client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        + chunked(b"data", trailers=("X-Sum: 42", "Content-Length: 99", "Host: evil", "X-Forwarded-For: 6.6.6.6"))
    )
    assert client.read_response().status == 200
    [request] = backend.requests
    assert (request.body, request.trailers) == (b"data", [("X-Sum", "42")])
    assert request.get("Trailer") == "X-Sum"


def test_trailers_come_down(client: RawClient, backend: ScriptedBackend) -> None:
    backend.script = answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        + chunked(b"some ", b"data", trailers=("X-Sum: 42", "Set-Cookie: a=b", "Transfer-Encoding: chunked"))
    )
    response = client.get()
    assert (response.body, response.trailers) == (b"some data", [("X-Sum", "42")])
    assert client.get().body == b"some data"


def test_chunk_extensions_belong_to_one_hop(client: RawClient, backend: ScriptedBackend) -> None:
    extended = b'4;name=value;q="a;b"\r\ndata\r\n0;last\r\n\r\n'
    backend.script = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + extended)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + extended)
    assert client.read_response().body == b"data", "the client of these tests takes no extensions"
    assert b"name=value" not in backend.received() and b"last" not in backend.received()


# -- large bodies -------------------------------------------------------------------------------------------------


def big_chunks() -> Iterator[bytes]:
    sizes = random.Random(7)
    position = 0
    while position < len(BIG):
        size = sizes.choice((1, 100, 4096, 65_536, 300_000))
        yield BIG[position : position + size]
        position += size


@pytest.mark.parametrize("coding", ["length", "chunked", "until close"])
def test_ten_mebibytes_come_down_byte_exact(client: RawClient, backend: ScriptedBackend, coding: str) -> None:
    def script(connection: Connection) -> None:
        connection.read_request()
        if coding == "length":
            connection.send(http_response(200, BIG))
        elif coding == "chunked":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*big_chunks()))
        else:
            connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + BIG)

    backend.script = script
    body = client.get().body
    assert (len(body), hashlib.sha256(body).hexdigest()) == (len(BIG), BIG_SUM)


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_ten_mebibytes_go_up_byte_exact(
    charon: CharonProcess, client: RawClient, backend: ScriptedBackend, coding: str
) -> None:
    backend.serve(http_response(200, b"thanks"))
    mark = charon.mark()
    if coding == "length":
        client.request("POST /up", body=BIG)
    else:
        client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*big_chunks()))
    assert client.read_response().body == b"thanks"
    [request] = backend.requests
    assert (len(request.body), hashlib.sha256(request.body).hexdigest()) == (len(BIG), BIG_SUM)
    assert client.get().body == b"thanks", "the connection goes on"
    assert charon.wait_for_event("http_request", since=mark, path="/up")["bytes_in"] == len(BIG)


def held_up(sender: Connection | RawClient, data: bytes) -> int:
    """Send until there has been no room for a while; how many bytes went."""
    view, sent = memoryview(data), 0
    while sent < len(data) and select.select([], [sender.sock], [], STALL)[1]:
        sent += sender.sock.send(view[sent : sent + 65_536])
    return sent


def test_a_slow_client_holds_up_its_upstream_not_charons_memory(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    body = BIG * 4
    sent: list[int] = []
    stopped = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        sent.append(held_up(connection, body))
        stopped.set()
        connection.send(memoryview(body)[sent[0] :])

    backend.script = script
    [pid] = charon.worker_pids()
    before = resident_bytes(pid)
    with RawClient(charon.port("web"), receive_buffer=65_536) as client:
        client.request("GET /")
        wait(stopped)
        assert sent[0] < len(body), "the upstream was not held up"
        assert resident_bytes(pid) - before < 4 << 20
        received = client.read_response().body
    assert hashlib.sha256(received).hexdigest() == hashlib.sha256(body).hexdigest()
    assert resident_bytes(pid) - before < 4 << 20


def test_a_slow_upstream_holds_up_its_client_not_charons_memory(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    body = BIG * 4
    go_on = threading.Event()
    sums: list[str] = []

    def script(connection: Connection) -> None:
        head = connection.read_head()
        wait(go_on)
        sums.append(hashlib.sha256(connection.recv_exactly(int(head.get("Content-Length") or 0))).hexdigest())
        connection.send(http_response(200, b"at last"))
        connection.wait_for_end()

    backend.script = script
    [pid] = charon.worker_pids()
    before = resident_bytes(pid)
    with RawClient(charon.port("web")) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n")
        sent = held_up(client, body)
        assert sent < len(body), "the client was not held up"
        assert resident_bytes(pid) - before < 4 << 20
        go_on.set()
        client.sock.sendall(memoryview(body)[sent:])
        assert client.read_response().body == b"at last"
    assert sums == [hashlib.sha256(body).hexdigest()]
    assert resident_bytes(pid) - before < 4 << 20


# -- at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["chunked", "length", "until close"])
def test_each_part_of_a_slow_answer_reaches_the_client_at_once(
    client: RawClient, backend: ScriptedBackend, coding: str
) -> None:
    confirmed = [threading.Event() for _ in range(4)]

    def script(connection: Connection) -> None:
        connection.read_request()
        framing = {"chunked": "Transfer-Encoding: chunked\r\n", "length": "Content-Length: 12\r\n", "until close": ""}
        connection.send(f"HTTP/1.1 200 OK\r\n{framing[coding]}\r\n".encode())
        wait(confirmed[0])
        for number in (1, 2, 3):
            part = b"par%d" % number
            connection.send(b"4\r\n%b\r\n" % part if coding == "chunked" else part)
            wait(confirmed[number])
        if coding == "chunked":
            connection.send(b"0\r\n\r\n")

    backend.script = script
    client.request("GET /")
    head = client.read_head()
    confirmed[0].set()
    for number in (1, 2, 3):
        part = client.recv_exactly(4) if head.get("Transfer-Encoding") is None else client.read_chunk()
        assert part == b"par%d" % number
        confirmed[number].set()
    if head.get("Transfer-Encoding") is not None:
        assert client.read_chunk() == b""


@pytest.mark.parametrize("coding", ["chunked", "length"])
def test_each_part_of_a_slow_request_reaches_the_upstream_at_once(
    client: RawClient, backend: ScriptedBackend, coding: str
) -> None:
    arrived = [threading.Event() for _ in range(4)]

    def script(connection: Connection) -> None:
        connection.read_head()
        arrived[0].set()
        for number in (1, 2, 3):
            part = connection.read_chunk() if coding == "chunked" else connection.recv_exactly(4)
            assert part == b"par%d" % number
            arrived[number].set()
        if coding == "chunked":
            assert connection.read_chunked() == (b"", [])
        connection.send(http_response(200, b"whole"))
        connection.wait_for_end()

    backend.script = script
    framing = "Transfer-Encoding: chunked" if coding == "chunked" else "Content-Length: 12"
    client.send(f"POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")
    wait(arrived[0])
    for number in (1, 2, 3):
        client.send(b"4\r\npar%d\r\n" % number if coding == "chunked" else b"par%d" % number)
        wait(arrived[number])
    if coding == "chunked":
        client.send(b"0\r\n\r\n")
    assert client.read_response().body == b"whole"


def test_request_and_answer_flow_at_the_same_time(client: RawClient, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while data := connection.read_chunk():
            connection.send_chunk(data)
        connection.recv_until(b"\r\n")
        connection.send(b"0\r\n\r\n")

    backend.script = script
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.read_head().status == 200
    for word in (b"ping", b"pong", b"x" * 100_000):
        client.send(b"%x\r\n%b\r\n" % (len(word), word))
        echoed = b""
        while len(echoed) < len(word):
            echoed += client.read_chunk()
        assert echoed == word
    client.send(b"0\r\n\r\n")
    assert client.read_chunk() == b""


# -- early ends ---------------------------------------------------------------------------------------------------


def test_an_early_answer_during_an_upload_reaches_the_client(client: RawClient, backend: ScriptedBackend) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.recv_exactly(10_000)
        connection.send(http_response(413, b"enough", "Connection: close"))
        connection.wait_for_end()

    backend.script = script
    client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BIG)}\r\n\r\n")
    client.send(BIG[:100_000])
    response = client.read_response()
    assert (response.status, response.body, response.get("Connection")) == (413, b"enough", "close")
    assert client.ended()


def test_a_client_that_sends_all_before_it_reads_still_gets_the_early_answer(
    client: RawClient, backend: ScriptedBackend
) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(http_response(413, b"enough", "Connection: close"))
        connection.half_close()
        connection.wait_for_end()

    backend.script = script
    client.request("POST /", body=BIG)
    response = client.read_response()
    assert (response.status, response.body) == (413, b"enough")
    assert client.ended(), "an orderly end, no reset that could destroy the answer"


def test_an_upstream_that_answers_and_closes_without_reading_is_heard(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(http_response(403, b"no entry", "Connection: close"))

    backend.script = script
    with RawClient(charon.port("web")) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BIG)}\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.body) == (403, b"no entry")


def test_a_client_that_has_said_all_still_gets_its_answer(client: RawClient, backend: ScriptedBackend) -> None:
    half_closed = threading.Event()

    def script(connection: Connection) -> None:
        request = connection.read_request()
        wait(half_closed)
        connection.send(http_response(200, request.body))
        connection.wait_for_end()

    backend.script = script
    client.request("POST /", body=b"all I have to say")
    client.half_close()
    half_closed.set()
    assert client.read_response().body == b"all I have to say"
    assert client.ended()


def test_a_client_may_half_close_while_its_answer_streams(client: RawClient, backend: ScriptedBackend) -> None:
    half_closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        wait(half_closed)
        connection.send(b"-half")
        connection.wait_for_end()

    backend.script = script
    client.request("GET /")
    client.read_head()
    assert client.recv_exactly(5) == b"first"
    client.half_close()
    half_closed.set()
    assert client.recv_exactly(5) == b"-half"
    assert client.ended()


def test_a_client_that_breaks_off_its_upload_breaks_the_request(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    ends: list[bool] = []
    ended = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        try:
            connection.recv_exactly(1000)
        except (Closed, ConnectionError):
            ends.append(True)
            ended.set()

    backend.script = script
    mark = charon.mark()
    client = RawClient(charon.port("web"))
    client.send("POST /broken HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\npart")
    backend.wait_for_connections(1)
    client.close()
    wait(ended)
    line = charon.wait_for_event("http_request", since=mark, path="/broken")
    assert (line["status"], line["reason"], line["bytes_in"]) == (499, "client_abort", 4)
