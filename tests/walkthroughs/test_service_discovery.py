"""Walk-through: where a service runs stands in a file, which is edited while Charon runs."""

from __future__ import annotations

from tests.conftest import StartCharon
from tests.harness.backends import program
from tests.harness.waiting import eventually
from tests.walkthroughs.support import typed

CONFIG = """
listen_port: "0"
target_service_name: "http-backend"
registry_file: "registry.yaml"
workers: 1
"""


def test_the_backend_moves_and_requests_follow(start_charon: StartCharon) -> None:
    with program("http_backend", "--addr", ":0") as first, program("http_backend", "--addr", ":0") as second:
        charon = start_charon(CONFIG, f"services:\n  http-backend: localhost:{first.port}\n", command=())
        hello = f"curl -s http://localhost:{charon.port()}/hello"
        assert f":{first.port}\n" in typed(hello).splitlines(keepends=True)[0]
        typed(f"sed -i s/{first.port}/{second.port}/ registry.yaml", cwd=charon.folder)
        charon.wait_for_event("registry_reloaded", timeout=2.0)
        eventually(lambda: f":{second.port}\n" in typed(hello).splitlines(keepends=True)[0])
        first.process.kill()  # nothing needs it any more
        assert f":{second.port}\n" in typed(hello)
        assert {line["status"] for line in charon.log_lines("http_request")} == {200}
