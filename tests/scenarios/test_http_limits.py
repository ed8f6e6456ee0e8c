"""What Charon refuses, how it says so, and that nothing of it reaches a backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Closed, Connection, ScriptedBackend, chunked, http_response
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient, Response

HEAD = "Host: a\r\n"


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, shared_backend: ScriptedBackend) -> CharonProcess:
    def listener(name: str, **limits: object) -> dict[str, object]:
        return {"name": name, "address": "127.0.0.1:0", "target_service_name": "app", "limits": limits}

    return start_shared_charon(
        {
            "listeners": [
                listener("web"),
                listener("small-heads", max_header_bytes="2KiB", max_headers=10),
                listener("small-bodies", max_body_bytes=1000),
                listener("two-connections", max_connections=2),
            ]
        },
        {"app": shared_backend.address},
    )


def refused(charon: CharonProcess, listener: str, request: str | bytes) -> Response:
    """What a request is refused with: an answer of Charon's own, then the end of the connection."""
    with RawClient(charon.port(listener)) as client:
        client.send(request)
        response = client.read_response()
        assert response.error is not None and response.body.startswith(response.error.encode() + b": ")
        assert response.get("Content-Type") == "text/plain; charset=utf-8" and response.get("Date")
        assert response.get("Connection") == "close" and client.ended()
        return response


MALFORMED = {
    "not HTTP": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
    "no version": ("GET /\r\n\r\n", 400, "bad_request"),
    "bare LF": (f"GET / HTTP/1.1\n{HEAD}\r\n", 400, "bad_request"),
    "space before the colon": (f"GET / HTTP/1.1\r\n{HEAD}X-A : b\r\n\r\n", 400, "bad_request"),
    "folded line": (f"GET / HTTP/1.1\r\n{HEAD}X-A: b\r\n c\r\n\r\n", 400, "bad_request"),
    "NUL": (f"GET / HTTP/1.1\r\n{HEAD}X-A: b\0\r\n\r\n", 400, "bad_request"),
    "no Host": ("GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
    "two Hosts": (f"GET / HTTP/1.1\r\n{HEAD}{HEAD}\r\n", 400, "bad_host"),
    "bad Host": ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad_host"),
    "length and coding": (
        f"POST / HTTP/1.1\r\n{HEAD}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_framing",
    ),
    "two lengths": (f"POST / HTTP/1.1\r\n{HEAD}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, "bad_framing"),
    "signed length": (f"POST / HTTP/1.1\r\n{HEAD}Content-Length: +3\r\n\r\nabc", 400, "bad_framing"),
    "other coding": (f"POST / HTTP/1.1\r\n{HEAD}Transfer-Encoding: gzip\r\n\r\n", 501, "unknown_coding"),
    "bad chunk": (f"POST / HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "bad_chunk"),
    "CONNECT": ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405, "method_not_allowed"),
    "HTTP/2": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "bad_version"),
    "other expectation": (f"POST / HTTP/1.1\r\n{HEAD}Expect: miracles\r\n\r\n", 417, "expectation_failed"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_and_goes_nowhere(
    charon: CharonProcess, backend: ScriptedBackend, case: str
) -> None:
    request, status, reason = MALFORMED[case]
    response = refused(charon, "web", request)
    assert (response.status, response.error) == (status, reason)
    if status == 405:
        assert response.get("Allow")
    assert not backend.connections


def test_a_request_behind_a_malformed_one_is_not_served(charon: CharonProcess, backend: ScriptedBackend) -> None:
    refused(charon, "web", f"GET / HTTP/1.1\r\n{HEAD}bad line\r\n\r\nGET /behind HTTP/1.1\r\n{HEAD}\r\n")
    assert not backend.connections


def test_a_request_before_a_malformed_one_is_served(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"good"))
    with RawClient(charon.port("web")) as client:
        client.send(f"GET / HTTP/1.1\r\n{HEAD}\r\nGET / HTTP/1.1\r\n{HEAD}bad line\r\n\r\n")
        assert client.read_response().body == b"good"
        assert client.read_response().error == "bad_request"
        assert client.ended()


def test_a_malformed_chunk_later_in_a_body_is_refused(charon: CharonProcess, backend: ScriptedBackend) -> None:
    """The backend has the head by then, but never a request that looks complete."""
    broken = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        assert connection.read_chunk() == b"good"
        broken.set()
        with pytest.raises((Closed, ConnectionError)):
            connection.read_chunk()

    backend.script = script
    with RawClient(charon.port("web")) as client:
        client.send(f"POST / HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n")
        assert broken.wait(PATIENCE)
        client.send("nonsense\r\n0\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.error) == (400, "bad_chunk")
        assert client.ended()


# -- heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ("X: a\r\n" * 9, None),
        ("X: a\r\n" * 10, "headers_too_large"),
        (f"X: {'a' * 1900}\r\n", None),
        (f"X: {'a' * 2100}\r\n", "headers_too_large"),
    ],
    ids=["ten fields", "eleven fields", "just under 2 KiB", "just over 2 KiB"],
)
def test_a_head_over_the_limits_is_431(
    charon: CharonProcess, backend: ScriptedBackend, fields: str, error: str | None
) -> None:
    request = f"GET / HTTP/1.1\r\n{HEAD}{fields}\r\n"
    if error is None:
        with RawClient(charon.port("small-heads")) as client:
            client.send(request)
            assert client.read_response().status == 200
        return
    response = refused(charon, "small-heads", request)
    assert (response.status, response.error) == (431, error)
    assert not backend.connections


def test_a_head_without_an_end_is_refused_once_it_is_too_large(charon: CharonProcess, backend: ScriptedBackend) -> None:
    response = refused(charon, "small-heads", f"GET / HTTP/1.1\r\n{HEAD}X: " + "a" * 100_000)
    assert (response.status, response.error) == (431, "headers_too_large")
    assert not backend.connections


def test_a_long_target_is_414(charon: CharonProcess, backend: ScriptedBackend) -> None:
    with RawClient(charon.port("web")) as client:
        assert client.get("/" + "a" * 10_000).status == 200
    backend.forget()
    response = refused(charon, "web", f"GET /{'a' * 20_000} HTTP/1.1\r\n{HEAD}\r\n")
    assert (response.status, response.error) == (414, "uri_too_long")
    assert not backend.connections


def test_an_answer_with_a_head_over_the_limits_is_502(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(http_response(200, b"", *["X: a"] * 10))
    with RawClient(charon.port("small-heads")) as client:
        response = client.get()
        assert (response.status, response.error) == (502, "upstream_malformed")


# -- bodies -------------------------------------------------------------------------------------------------------


def test_a_body_of_just_the_limit_passes(charon: CharonProcess, backend: ScriptedBackend) -> None:
    backend.serve(lambda request: http_response(200, b"%d" % len(request.body)))
    with RawClient(charon.port("small-bodies")) as client:
        assert client.post("/", b"x" * 1000).body == b"1000"
        client.send(f"POST / HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked(b"x" * 1000))
        assert client.read_response().body == b"1000"


def test_a_length_over_the_limit_is_413_before_the_body_is_sent(
    charon: CharonProcess, backend: ScriptedBackend
) -> None:
    response = refused(charon, "small-bodies", f"POST / HTTP/1.1\r\n{HEAD}Content-Length: 1001\r\n\r\n")
    assert (response.status, response.error) == (413, "body_too_large")
    assert not backend.connections


def test_a_length_over_the_limit_is_413_instead_of_100(charon: CharonProcess, backend: ScriptedBackend) -> None:
    request = f"POST / HTTP/1.1\r\n{HEAD}Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
    assert refused(charon, "small-bodies", request).status == 413
    assert not backend.connections


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
def test_chunks_over_the_limit_are_413(charon: CharonProcess, backend: ScriptedBackend, at_once: bool) -> None:
    arrived = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        arrived.set()
        with pytest.raises((Closed, ConnectionError)):
            connection.read_chunked()

    backend.script = script
    with RawClient(charon.port("small-bodies")) as client:
        client.send(f"POST / HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n")
        if not at_once:
            client.send(b"4\r\ngood\r\n")
            assert arrived.wait(PATIENCE)
        client.send(chunked(b"x" * 600, b"x" * 600))
        response = client.read_response()
        assert (response.status, response.error) == (413, "body_too_large")
        assert client.ended()


# -- connections --------------------------------------------------------------------------------------------------


@pytest.fixture
def two(charon: CharonProcess) -> Iterator[tuple[RawClient, RawClient]]:
    with RawClient(charon.port("two-connections")) as one, RawClient(charon.port("two-connections")) as another:
        yield one, another


def test_a_connection_over_the_limit_waits_until_another_ends(
    charon: CharonProcess, backend: ScriptedBackend, two: tuple[RawClient, RawClient]
) -> None:
    backend.serve(http_response(200, b"ok"))
    one, another = two
    assert one.get("/one").status == another.get("/another").status == 200
    with RawClient(charon.port("two-connections")) as third:
        third.request("GET /third")
        for _ in range(20):
            assert one.get("/one").status == another.get("/another").status == 200
        assert "/third" not in {request.target for request in backend.requests}
        assert sample(charon.metrics(), "charon_listener_connections", listener="two-connections") == 2
        one.close()
        assert third.read_response().status == 200
        assert another.get("/another").status == 200
