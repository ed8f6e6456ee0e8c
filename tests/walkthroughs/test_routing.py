"""Walk-through: services chosen by host and path, the first rule that matches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program, program
from tests.harness.charon import CharonProcess
from tests.walkthroughs.support import typed

CONFIG = """
listen_port: "0"

# Default service (fallback)
target_service_name: "http-backend"
registry_file: "registry.yaml"
workers: 1

# Routing rules
routes:
  - host: "api.local"
    path_prefix: "/hello"
    service: "http-backend"
  - path_prefix: "/admin"
    service: "admin-backend"
"""

REGISTRY = """
services:
  http-backend: localhost:{http}
  admin-backend: localhost:{admin}
"""


@pytest.fixture(scope="module")
def admin_backend() -> Iterator[Program]:
    with program("http_backend", "--addr", "127.0.0.1:0") as running:
        yield running


@pytest.fixture(scope="module")
def charon(start_shared_charon: StartCharon, http_backend: Program, admin_backend: Program) -> CharonProcess:
    return start_shared_charon(CONFIG, REGISTRY.format(http=http_backend.port, admin=admin_backend.port), command=())


@pytest.mark.parametrize(
    ("arguments", "path", "service"),
    [
        ("", "/hello", "http-backend"),
        ("", "/admin", "admin-backend"),
        ("", "/admin/users", "admin-backend"),
        ("", "/administrator", "http-backend"),
        ('-H "Host: api.local"', "/hello", "http-backend"),
        ('-H "Host: api.local"', "/admin", "admin-backend"),
        ('-H "Host: API.local:8080"', "/hello/again", "http-backend"),
    ],
)
def test_curl_by_host_and_path(
    charon: CharonProcess, http_backend: Program, admin_backend: Program, arguments: str, path: str, service: str
) -> None:
    answer = typed(f"curl -s {arguments} http://localhost:{charon.port()}{path}")
    expected = {"http-backend": http_backend, "admin-backend": admin_backend}[service]
    assert answer.startswith(f"backend: {expected.address}\nmethod: GET\npath: {path}\n")
