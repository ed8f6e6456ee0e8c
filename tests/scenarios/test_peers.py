"""Programs that Charon meets in the field: nginx behind it; curl, wrk and Python's own clients before it."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess, sample, total
from tests.harness.client import RawClient
from tests.harness.waiting import eventually

BIG = 10 * 1024 * 1024

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/www;
    location /turn {{ return 200 "$connection $connection_requests\\n"; }}
    location /dav/ {{ dav_methods PUT; root {folder}/www; }}
    location /seen {{ return 200 "$request_method $http_host $http_x_forwarded_for $http_via\\n"; }}
  }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def program(name: str) -> str:
    """A program that ``scripts/test`` sees to, wherever it is."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"{name} is not installed; scripts/test installs it"
    return found


class Nginx:
    """A real nginx with a file of 10 MiB."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.www = folder / "www"
        (self.www / "dav").mkdir(parents=True)
        self.big = os.urandom(BIG)
        (self.www / "big").write_bytes(self.big)
        (self.www / "hello.txt").write_text("hello from nginx\n")
        config = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(NGINX.format(folder=folder, port=self.port, user=user))
        command = [program("nginx"), "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(config)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def accepts(self) -> bool:
        assert self.process.poll() is None, "nginx has ended"
        try:
            RawClient(self.port).close()
        except ConnectionRefusedError:
            return False
        return True

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    server = Nginx(tmp_path_factory.mktemp("nginx"))
    try:
        eventually(server.accepts)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, nginx: Nginx, http_backend: Program) -> CharonProcess:
    return start_shared_charon(
        {
            "listeners": [
                {"name": "nginx", "address": "127.0.0.1:0", "target_service_name": "nginx"},
                {"name": "python", "address": "127.0.0.1:0", "target_service_name": "python"},
            ]
        },
        {"nginx": nginx.address, "python": http_backend.address},
    )


@pytest.fixture
def url(charon: CharonProcess) -> str:
    return f"http://127.0.0.1:{charon.port('nginx')}"


def run(*command: str | Path) -> str:
    """The output of a program that succeeds; no proxy of the machine's comes between."""
    environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    done = subprocess.run(
        [program(str(command[0])), *command[1:]],
        capture_output=True,
        text=True,
        timeout=30,
        env={**environ, "CURL_HOME": "/nonexistent"},
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# -- nginx ------------------------------------------------------------------------------------------------------------


def test_nginx_serves_many_requests_over_one_connection(charon: CharonProcess) -> None:
    before = charon.metrics()
    with RawClient(charon.port("nginx")) as client:
        turns = [client.get("/turn").body.split() for _ in range(20)]
    assert len({connection for connection, _ in turns}) == 1
    numbers = [int(number) for _, number in turns]
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    upstream = {"service": "nginx"}
    reused = "charon_upstream_pool_reused_total"
    assert total(charon.metrics(), reused, **upstream) - total(before, reused, **upstream) >= 19


def test_nginx_sends_a_big_file(charon: CharonProcess, nginx: Nginx) -> None:
    with RawClient(charon.port("nginx")) as client:
        for _ in range(3):
            response = client.get("/big")
            assert response.status == 200
            assert response.get("Content-Length") == str(BIG)
            assert response.body == nginx.big
            assert response.get("ETag") and response.get("Last-Modified")


def test_nginx_answers_head_range_and_conditions(charon: CharonProcess, nginx: Nginx) -> None:
    with RawClient(charon.port("nginx")) as client:
        client.request("HEAD /big")
        head = client.read_response("HEAD")
        assert (head.status, head.get("Content-Length"), head.body) == (200, str(BIG), b"")
        part = client.get("/big", "Range: bytes=1000-1999")
        assert (part.status, part.body) == (206, nginx.big[1000:2000])
        assert part.get("Content-Range") == f"bytes 1000-1999/{BIG}"
        parts = client.get("/big", "Range: bytes=0-9,20-29")
        assert parts.status == 206 and nginx.big[20:30] in parts.body
        beyond = client.get("/big", f"Range: bytes={BIG}-")
        assert beyond.status == 416
        unchanged = client.get("/big", f"If-None-Match: {head.get('ETag')}")
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert client.get("/hello.txt").body == b"hello from nginx\n"


def test_nginx_refusals_pass_as_they_are(charon: CharonProcess) -> None:
    with RawClient(charon.port("nginx")) as client:
        for response, status in ((client.get("/missing"), 404), (client.post("/hello.txt", b"x" * 1000), 405)):
            assert response.status == status
            assert (response.get("Server") or "").startswith("nginx")
            assert response.error is None
        assert client.get("/hello.txt").status == 200


@pytest.mark.parametrize("size", [0, 1, 100_000, BIG])
def test_nginx_gets_an_upload(charon: CharonProcess, nginx: Nginx, size: int) -> None:
    with RawClient(charon.port("nginx")) as client:
        client.request(f"PUT /dav/up-{size}", *([] if size else ["Content-Length: 0"]), body=nginx.big[:size])
        assert client.read_response().status == 201
    assert (nginx.www / f"dav/up-{size}").read_bytes() == nginx.big[:size]


def test_nginx_gets_a_chunked_upload(charon: CharonProcess, nginx: Nginx) -> None:
    with RawClient(charon.port("nginx")) as client:
        client.request("PUT /dav/chunked", "Transfer-Encoding: chunked")
        for start in range(0, 1_000_000, 7919):
            piece = nginx.big[start : min(start + 7919, 1_000_000)]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        assert client.read_response().status == 201
    assert (nginx.www / "dav/chunked").read_bytes() == nginx.big[:1_000_000]


def test_nginx_sees_who_asks(charon: CharonProcess) -> None:
    with RawClient(charon.port("nginx")) as client:
        words = client.get("/seen").body.decode().split(" ", 3)
    assert words[:3] == ["GET", "test.example", "127.0.0.1"]
    assert words[3].startswith("1.1 ")


# -- curl -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "version"), [("--http1.0", "1.0"), ("--http1.1", "1.1")])
def test_curl_in_both_versions(
    charon: CharonProcess, url: str, nginx: Nginx, tmp_path: Path, option: str, version: str
) -> None:
    mark = charon.mark("nginx")
    target = tmp_path / "big"
    what = "%{http_code} %{size_download}\n"
    said = run("curl", "-sS", option, "-w", what, "-o", target, f"{url}/big")
    assert said == f"200 {BIG}\n"
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(nginx.big).digest()
    assert run("curl", "-sS", option, "-I", f"{url}/big").startswith("HTTP/1.1 200 OK")
    assert run("curl", "-sS", option, "-d", "abc", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/seen") == "200"
    assert run("curl", "-sS", option, f"{url}/hello.txt") == "hello from nginx\n"
    lines = charon.wait_for_events("http_request", 4, since=mark, protocol=f"HTTP/{version}")
    assert [line["size_bytes"] for line in lines[:2]] == [BIG, 0]


def test_curl_keeps_its_connection(url: str) -> None:
    urls = [f"{url}/turn"] * 5
    said = run("curl", "-sS", "-o", "/dev/null", "-w", "%{num_connects} ", *urls[:1], *_again(urls[1:]))
    assert said.split() == ["1", "0", "0", "0", "0"]


def _again(urls: list[str]) -> list[str]:
    return [word for url in urls for word in ("-o", "/dev/null", url)]


def test_curl_uploads_after_100_continue(url: str, nginx: Nginx, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(nginx.big)
    options = ("-H", "Expect: 100-continue", "--expect100-timeout", "20")
    said = run("curl", "-sS", "-v", *options, "-T", source, "-w", "%{http_code}", f"{url}/dav/curl")
    assert said == "201"
    assert (nginx.www / "dav/curl").read_bytes() == nginx.big


def test_curl_uploads_from_a_pipe_in_chunks(url: str, nginx: Nginx, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(nginx.big[:3_000_000])
    run("sh", "-c", f"cat {source} | curl -sS -f -T - {url}/dav/piped")
    assert (nginx.www / "dav/piped").read_bytes() == nginx.big[:3_000_000]


# -- wrk --------------------------------------------------------------------------------------------------------------


def test_wrk_for_two_seconds_without_an_error(charon: CharonProcess, url: str, nginx: Nginx) -> None:
    def answered() -> float:
        labels = {"method": "GET", "status": "200", "upstream": nginx.address}
        return sample(charon.metrics(), "charon_http_requests_total", **labels)

    before = answered()
    said = run("wrk", "-t", "1", "-c", "32", "-d", "2s", f"{url}/hello.txt")
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    match = re.search(r"(\d+) requests in", said)
    assert match, said
    done = int(match[1])
    assert done > 100
    # Those under way when wrk stopped may be counted as well, at most one on each connection.
    eventually(lambda: done <= answered() - before <= done + 32)


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


def test_requests_session(session: requests.Session, charon: CharonProcess, url: str, nginx: Nginx) -> None:
    accepted = sample(charon.metrics(), "charon_listener_accepted_connections_total", listener="nginx")
    assert [session.get(f"{url}/hello.txt", timeout=10).text for _ in range(5)] == ["hello from nginx\n"] * 5
    assert session.get(f"{url}/big", timeout=10).content == nginx.big
    assert session.head(f"{url}/big", timeout=10).headers["Content-Length"] == str(BIG)
    assert session.put(f"{url}/dav/requests", data=nginx.big, timeout=10).status_code == 201
    pieces = (nginx.big[start : start + 10_000] for start in range(0, 1_000_000, 10_000))
    assert session.put(f"{url}/dav/generated", data=pieces, timeout=10).status_code == 201
    assert (nginx.www / "dav/requests").read_bytes() == nginx.big
    assert (nginx.www / "dav/generated").read_bytes() == nginx.big[:1_000_000]
    assert session.get(f"{url}/missing", timeout=10).status_code == 404
    now = sample(charon.metrics(), "charon_listener_accepted_connections_total", listener="nginx")
    assert now - accepted == 1, "all over one connection"


def test_requests_session_reads_a_stream(session: requests.Session, charon: CharonProcess) -> None:
    url = f"http://127.0.0.1:{charon.port('python')}/stream?chunks=4&ms=20"
    with session.get(url, stream=True, timeout=10) as response:
        assert response.headers["Transfer-Encoding"] == "chunked"
        lines = [line.decode() for line in response.iter_lines()]
    assert lines == [f"chunk {number} of 4" for number in range(1, 5)]


def test_http_client(charon: CharonProcess, nginx: Nginx) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", charon.port("nginx"), timeout=10)
    for method, path, body, status in (
        ("GET", "/hello.txt", None, 200),
        ("HEAD", "/big", None, 200),
        ("PUT", "/dav/http-client", b"from http.client", 201),
        ("GET", "/dav/http-client", None, 200),
        ("GET", "/missing", None, 404),
        ("GET", "/big", None, 200),
    ):
        connection.request(method, path, body)
        sock = connection.sock
        response = connection.getresponse()
        data = response.read()
        assert response.status == status
        assert connection.sock is sock, "the connection is kept"
    assert data == nginx.big
    connection.close()
