"""Programs that others have written, on either side of Charon."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartCharon
from tests.harness import PATIENCE
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess, total
from tests.harness.client import RawClient


def installed(name: str) -> str:
    """The path of a program, or skip: CI installs all of them."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def curl(*arguments: str) -> str:
    command = [
        installed("curl"),
        "--silent",
        "--show-error",
        "--max-time",
        str(int(PATIENCE)),
        "--noproxy",
        "*",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """nginx with a folder of files, on a Unix socket."""
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "www").mkdir()
    folder.chmod(0o755)
    (folder / "www" / "big").write_bytes(bytes(i % 251 for i in range(3_000_000)))
    (folder / "www" / "index.html").write_text("<h1>hello</h1>\n")
    # Where nginx listens must be known beforehand, and its socket's path must be short.
    address = Path("/tmp") / f"charon-nginx-{folder.parent.name[-12:]}.sock"
    address.unlink(missing_ok=True)
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{}}
        http {{
            access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
            server {{
                listen unix:{address}; root {folder}/www;
                location = /seen {{ return 200 "$request_method $request_uri $host $http_x_forwarded_for\\n"; }}
                location = /limited {{ client_max_body_size 1k; return 200 "taken\\n"; }}
            }}
        }}
        """
    )
    with subprocess.Popen(
        [installed("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)], stderr=subprocess.PIPE
    ) as process:
        try:
            while process.poll() is None:
                with socket.socket(socket.AF_UNIX) as probe:
                    if probe.connect_ex(str(address)) == 0:
                        break
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            yield f"unix:{address}"
        finally:
            process.terminate()
            process.wait(PATIENCE)
            address.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, http_backend: Program) -> CharonProcess:
    return start_shared_charon(
        {"listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_addr": http_backend.address}]}
    )


@pytest.fixture(scope="module")
def before_nginx(start_shared_charon: StartCharon, nginx: str) -> CharonProcess:
    return start_shared_charon({"listeners": [{"name": "web", "address": "127.0.0.1:0", "target_service_addr": nginx}]})


def test_curl_gets_and_posts(charon: CharonProcess) -> None:
    url = f"http://127.0.0.1:{charon.port('web')}"
    answer = curl(f"{url}/hello?x=1", "-H", "Host: shop.example")
    assert "method: GET" in answer and "path: /hello?x=1" in answer and "Host: shop.example" in answer
    answer = curl(f"{url}/form", "-d", "name=value")
    assert "method: POST" in answer and "body: 10 bytes" in answer
    assert curl("--head", f"{url}/x").startswith("HTTP/1.1 200 ")


def test_curl_uploads_with_100_continue(charon: CharonProcess, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(3_000_000))
    url = f"http://127.0.0.1:{charon.port('web')}/up"
    for more in ((), ("-H", "Transfer-Encoding: chunked")):
        answer = curl("-T", str(upload), "-H", "Expect: 100-continue", *more, url)
        assert "method: PUT" in answer and "body: 3000000 bytes" in answer


def test_curl_speaks_http10(charon: CharonProcess) -> None:
    assert "chunk 3 of 3" in curl("--http1.0", f"http://127.0.0.1:{charon.port('web')}/stream?chunks=3&ms=0")


def test_nginx_serves_files_ranges_and_validators(before_nginx: CharonProcess) -> None:
    with RawClient(before_nginx.port("web")) as client:
        page = client.get("/")
        assert page.body == b"<h1>hello</h1>\n" and (page.get("Server") or "").startswith("nginx")
        assert client.get("/", f"If-None-Match: {page.get('ETag')}").status == 304
        part = client.get("/big", "Range: bytes=1000-1999")
        assert (part.status, len(part.body)) == (206, 1000)
        big = client.get("/big").body
        assert hashlib.sha256(big).digest() == hashlib.sha256(bytes(i % 251 for i in range(3_000_000))).digest()
        zipped = client.get("/", "Accept-Encoding: gzip")
        assert zipped.get("Content-Encoding") == "gzip" and zipped.get("Transfer-Encoding") == "chunked"
        assert client.get("/seen?a=b").body == b"GET /seen?a=b test.example 127.0.0.1\n"
        assert client.get("/none").status == 404


def test_nginx_that_refuses_a_large_body_is_heard(before_nginx: CharonProcess) -> None:
    with RawClient(before_nginx.port("web")) as client:
        client.send("POST /limited HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.error, response.get("Connection")) == (413, None, "close")


def test_wrk_sees_no_error(before_nginx: CharonProcess) -> None:
    url = f"http://127.0.0.1:{before_nginx.port('web')}/seen"
    report = subprocess.run(
        [installed("wrk"), "-t1", "-c8", "-d1s", url], check=True, capture_output=True, text=True
    ).stdout
    assert "requests in" in report and "errors" not in report and "Non-2xx" not in report
    before_nginx.mark("web")
    requests = int(next(line for line in report.splitlines() if "requests in" in line).split()[0])
    assert total(before_nginx.metrics(), "charon_http_requests_total", status="200") >= requests
