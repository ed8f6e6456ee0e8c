"""The steps of docs/interception.md, as they stand there, on a host of the test's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.conftest import StartCharon
from tests.harness.backends import ScriptedBackend, answering, http_response
from tests.harness.charon import CharonProcess
from tests.harness.namespaces import Host, need_interception, two_hosts
from tests.walkthroughs.support import typed

DOCUMENT = (Path(__file__).parents[2] / "docs" / "interception.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    need_interception()
    with two_hosts() as (a, b), ExitStack() as stack:
        with b.inside():
            for port in (80, 81, 83):
                answer = answering(http_response(200, f"{port}\n".encode()))
                stack.enter_context(ScriptedBackend(answer, host=b.ip, port=port))
        yield a, b


@pytest.fixture
def charon(hosts: tuple[Host, Host], start_charon: StartCharon) -> CharonProcess:
    config, registry, inbound, kept = blocks("yaml")
    assert config.startswith("# config.yaml") and registry.startswith("# registry.yaml")
    assert yaml.safe_load(inbound)["intercept"]["inbound"] == {"listener": "inbound", "ports": [9000]}
    assert yaml.safe_load(kept)["intercept"]["inbound"]["keep_client_address"]
    services = yaml.safe_load(registry)["services"]
    return start_charon(config + "workers: 1\n", services, prefix=hosts[0].prefix)


def test_the_steps(charon: CharonProcess, hosts: tuple[Host, Host]) -> None:
    steps, ways, _ = blocks("sh")
    lines = [line for line in (steps + ways).splitlines() if line and not line.startswith("#")]
    assert lines[0] == "charon run --config config.yaml"
    said = []
    for line in lines[1:]:
        command = line.partition(" #")[0].replace("charon ", "python -m charon ")
        said.append(typed(f"{' '.join(hosts[0].prefix)} {command}", cwd=charon.folder))
    show, *checks = said
    assert "redirect to :15001" in show
    assert checks == [
        "the kernel has what is wanted\n",
        *(["80\n", "81\n"] if checks[1] == "80\n" else ["81\n", "80\n"]),
        "83\n",
        "down\n",
        "up\n",
        "the kernel has what is wanted\n",
    ]
