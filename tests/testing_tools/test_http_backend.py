"""What the HTTP backend answers, seen by a client."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import gevent
import pytest
from gevent import socket as green

from charon.testing.http_backend import PATTERN_PERIOD, HttpBackend, SeenRequest, pattern
from tests.testing_tools.conftest import Running, Start


@pytest.fixture(scope="module")
def backend(start: Start) -> Running:
    return start("http_backend", "--addr", "127.0.0.1:0")


@pytest.fixture
def client(backend: Running) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(backend.host, backend.port, timeout=10)
    yield connection
    connection.close()


def get(client: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    client.request("GET", path)
    response = client.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("path", ["/", "/hello", "/a/b?c=%20d", "//doubled", "/streams", "/bytes"])
def test_a_path_of_no_meaning_shows_the_request(
    client: http.client.HTTPConnection, backend: Running, path: str
) -> None:
    client.putrequest("POST", path, skip_host=True, skip_accept_encoding=True)
    for name, value in (
        ("Host", "example.com"),
        ("X-lower-UPPER", "1"),
        ("X-lower-UPPER", "2"),
        ("Content-Length", "5"),
    ):
        client.putheader(name, value)
    client.endheaders(b"12345")
    response = client.getresponse()
    assert response.status == 200
    assert response.getheader("X-Backend") == f"127.0.0.1:{backend.port}"
    assert response.read().decode().splitlines() == [
        f"backend: 127.0.0.1:{backend.port}",
        "method: POST",
        f"path: {path}",
        "body: 5 bytes",
        "headers:",
        "  Host: example.com",
        "  X-lower-UPPER: 1",
        "  X-lower-UPPER: 2",
        "  Content-Length: 5",
    ]


def test_a_chunked_body_is_counted_without_its_framing(client: http.client.HTTPConnection) -> None:
    client.request("PUT", "/", body=iter([b"abc", b"defg"]), encode_chunked=True)
    assert b"body: 7 bytes\n" in client.getresponse().read()


def test_fail_fails(client: http.client.HTTPConnection) -> None:
    assert get(client, "/fail") == (500, b"failed, as asked\n")


@pytest.mark.parametrize("status", [200, 404, 429, 503, 599])
def test_status_is_what_was_asked_for(client: http.client.HTTPConnection, status: int) -> None:
    assert get(client, f"/status/{status}")[0] == status


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(client: http.client.HTTPConnection, status: int) -> None:
    client.request("GET", f"/status/{status}")
    response = client.getresponse()
    assert (response.status, response.read(), response.getheader("Content-Length")) == (status, b"", None)


def test_slow_answers_after_its_time(client: http.client.HTTPConnection) -> None:
    assert get(client, "/slow?ms=1") == (200, b"waited 1 ms\n")


def test_stream_comes_in_chunks(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/stream?chunks=3&ms=0")
    response = client.getresponse()
    assert response.getheader("Transfer-Encoding") == "chunked"
    assert response.getheader("Content-Length") is None
    assert response.read() == b"chunk 1 of 3\nchunk 2 of 3\nchunk 3 of 3\n"


def test_the_first_chunk_comes_before_the_last_is_made(backend: Running) -> None:
    with socket.create_connection((backend.host, backend.port), timeout=10) as connection:
        connection.sendall(b"GET /stream?chunks=2&ms=3600000 HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while b"chunk 1 of 2" not in received:
            data = connection.recv(4096)
            assert data, "closed before the first chunk"
            received += data
    assert b"chunk 2" not in received


@pytest.mark.parametrize("length", [0, 1, 65_536, 200_000])
def test_bytes_are_as_many_as_asked_for_and_the_known_ones(client: http.client.HTTPConnection, length: int) -> None:
    client.request("GET", f"/bytes/{length}")
    response = client.getresponse()
    assert response.getheader("Content-Length") == str(length)
    assert response.read() == bytes(number % PATTERN_PERIOD for number in range(length))


def test_the_pattern_goes_on_across_blocks() -> None:
    whole = b"".join(pattern(1_000_000))
    assert len(whole) == 1_000_000
    assert all(whole[i] == i % PATTERN_PERIOD for i in range(0, 1_000_000, 997))


@pytest.mark.parametrize(
    "path",
    ["/slow?ms=-1", "/slow?ms=1.5", "/status/abc", "/status/100", "/status/600", "/bytes/-1", "/stream?chunks=x"],
)
def test_a_value_without_sense_is_a_400(client: http.client.HTTPConnection, path: str) -> None:
    status, text = get(client, path)
    assert status == 400
    assert b"must be a whole number" in text


def test_head_has_the_length_and_no_body(client: http.client.HTTPConnection) -> None:
    client.request("HEAD", "/bytes/10")
    response = client.getresponse()
    assert (response.status, response.getheader("Content-Length"), response.read()) == (200, "10", b"")
    assert get(client, "/status/200") == (200, b"200 OK\n"), "the connection must be in step afterwards"


def test_a_connection_serves_many_requests(client: http.client.HTTPConnection) -> None:
    get(client, "/")
    first = client.sock.getsockname()
    get(client, "/fail")
    get(client, "/status/204")
    assert client.sock.getsockname() == first


def test_as_a_library_it_remembers_what_it_saw() -> None:
    backend = HttpBackend("127.0.0.1:0")
    backend.start()
    try:
        connection = green.create_connection(("127.0.0.1", backend.server_port))
        connection.sendall(
            b"PUT /x?y HTTP/1.1\r\nHost: a\r\nx-B: c\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        )
        with gevent.Timeout(10):
            while connection.recv(4096):
                pass
        connection.close()
    finally:
        backend.stop()
    headers = (("Host", "a"), ("x-B", "c"), ("Content-Length", "2"), ("Connection", "close"))
    assert list(backend.seen) == [SeenRequest("PUT", "/x?y", headers, 2)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_when_told(start: Start, number: signal.Signals) -> None:
    process = start("http_backend", "--addr", "127.0.0.1:0").process
    process.send_signal(number)
    assert process.wait(timeout=10) == 0


def test_a_taken_port_is_one_clear_line(backend: Running) -> None:
    command = [sys.executable, "-m", "charon.testing.http_backend", "--addr", f"127.0.0.1:{backend.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 3
    assert "cannot listen" in done.stderr
    assert done.stderr.count("\n") == 1
