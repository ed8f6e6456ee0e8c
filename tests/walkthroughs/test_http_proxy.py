"""Walk-through: an HTTP backend behind the reverse proxy, asked with curl."""

from __future__ import annotations

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess
from tests.walkthroughs.support import shell

CONFIG = """
listen_port: "0"
target_service_addr: "localhost:{port}"
workers: 1
"""


@pytest.fixture
def charon(start_charon: StartCharon, http_backend: Program) -> CharonProcess:
    return start_charon(CONFIG.format(port=http_backend.port), command=())


def test_curl_get_and_post(charon: CharonProcess, http_backend: Program) -> None:
    got = shell(f"curl -v http://localhost:{charon.port()}/")
    assert got.returncode == 0
    assert "< HTTP/1.1 200 OK" in got.stderr
    assert "method: GET\npath: /\nbody: 0 bytes\n" in got.stdout

    posted = shell(f"curl -v -X POST http://localhost:{charon.port()}/hello -d 'hi'")
    assert posted.returncode == 0
    assert "< HTTP/1.1 200 OK" in posted.stderr
    assert "method: POST\npath: /hello\nbody: 2 bytes\n" in posted.stdout
    assert f"  Host: localhost:{charon.port()}\n" in posted.stdout

    first, second = charon.wait_for_events("http_request", 2)
    upstream = f"localhost:{http_backend.port}"
    for line, method, path, body in ((first, "GET", "/", got.stdout), (second, "POST", "/hello", posted.stdout)):
        assert (line["method"], line["path"], line["status"], line["upstream"]) == (method, path, 200, upstream)
        assert line["size_bytes"] == len(body)
        assert line["latency_ms"] > 0
