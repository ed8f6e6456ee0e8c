"""Discovery runs in a monkey-patched process; so do its tests."""

from __future__ import annotations

import charon.net.patch  # noqa: F401 - before all others

# isort: split
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.discovery.dns_server import DnsServer
from tests.discovery.support import Changes, Recorder, spawn


@pytest.fixture
def log() -> Recorder:
    return Recorder()


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def dns_server() -> Iterator[DnsServer]:
    server = DnsServer(spawn)
    yield server
    server.stop()


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("")
    return path
