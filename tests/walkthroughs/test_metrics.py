"""Walk-through: metrics with curl and grep, on the port of the proxy itself."""

from __future__ import annotations

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.walkthroughs.support import shell, typed

CONFIG = """
listen_port: "0"
target_service_addr: "localhost:{port}"
workers: 2
"""


def test_curl_and_grep(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(CONFIG.format(port=http_backend.port), command=())
    at = f"http://localhost:{charon.port()}"
    for _ in range(3):
        typed(f"curl -s {at}/hello")
    assert shell(f"curl -s -f {at}/fail").returncode == 22
    lines = typed(f"curl -s {at}/metrics | grep ^charon_").splitlines()
    upstream = f'upstream="localhost:{http_backend.port}"'
    assert f'charon_http_requests_total{{method="GET",status="200",{upstream}}} 3.0' in lines
    assert f'charon_http_requests_total{{method="GET",status="500",{upstream}}} 1.0' in lines
    assert f'charon_http_request_latency_seconds_count{{method="GET",{upstream}}} 4.0' in lines
    assert f'charon_http_request_latency_seconds_bucket{{le="+Inf",method="GET",{upstream}}} 4.0' in lines
    assert any(line.startswith("charon_http_request_latency_seconds_sum{") for line in lines)
