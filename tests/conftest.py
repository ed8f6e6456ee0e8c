"""Fixtures for end-to-end tests (see tests/harness)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import charon as harness
from tests.harness.backends import Program, ScriptedBackend, program
from tests.harness.charon import CharonProcess

StartCharon = Callable[..., CharonProcess]

# How fast input is generated says nothing where every line is measured; it is named on the command line.
settings.register_profile("measured", suppress_health_check=[HealthCheck.too_slow])

PATCHED = Path(__file__).parent / "discovery"
"""Tests that need a monkey-patched process, which those with threads and blocking sockets cannot share."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the patched tests to ``test_patched.py``, which gives them a process, unless only they are asked for."""
    if collection_path != PATCHED:
        return None
    asked = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    return not all(path.is_relative_to(PATCHED) for path in asked)


@pytest.fixture
def start_charon(tmp_path: Path) -> Iterator[StartCharon]:
    """``start_charon(config, registry, workers=1)``: a Charon of the test's own, running; it ends with the test."""
    with ExitStack() as stack:

        def start(config: dict[str, Any] | str, registry: dict[str, Any] | None = None, **how: Any) -> CharonProcess:
            folder = tmp_path / f"charon-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(CharonProcess(folder, config, registry, **how))

        yield start


@pytest.fixture
def make_charon(tmp_path: Path) -> Iterator[StartCharon]:
    """As ``start_charon``, but not running yet: the test itself calls ``start``, perhaps to see it fail."""
    with ExitStack() as stack:

        def make(config: dict[str, Any] | str, registry: dict[str, Any] | None = None, **how: Any) -> CharonProcess:
            folder = tmp_path / f"charon-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            charon = CharonProcess(folder, config, registry, **how)
            stack.callback(charon.end)
            return charon

        yield make


@pytest.fixture(scope="module")
def start_shared_charon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartCharon]:
    """As ``start_charon``, for one that all tests of the file share."""
    with ExitStack() as stack:

        def start(config: dict[str, Any] | str, registry: dict[str, Any] | None = None, **how: Any) -> CharonProcess:
            folder = tmp_path_factory.mktemp("charon")
            return stack.enter_context(CharonProcess(folder, config, registry, **how))

        yield start


@pytest.fixture(scope="module")
def shared_backend() -> Iterator[ScriptedBackend]:
    """A scripted backend at one address for all tests of the file; tests use ``backend``."""
    with ScriptedBackend() as backend:
        yield backend


@pytest.fixture
def backend(shared_backend: ScriptedBackend) -> Iterator[ScriptedBackend]:
    """The file's scripted backend, with no connection left from the test before."""
    shared_backend.forget()
    yield shared_backend
    shared_backend.forget()


@pytest.fixture(scope="module")
def http_backend() -> Iterator[Program]:
    """The shipped HTTP backend as a process."""
    with program("http_backend", "--addr", "127.0.0.1:0") as running:
        yield running


@pytest.fixture(scope="module")
def echo_server() -> Iterator[Program]:
    """The shipped TCP echo server as a process."""
    with program("echo_server", "--host", "127.0.0.1", "--port", "0") as running:
        yield running


def pytest_runtest_setup() -> None:
    for process in harness.running:
        process.new_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the log of every Charon that ran in it."""
    report = yield
    if report.failed:
        for process in harness.running:
            report.sections.append((f"charon {process.folder.name}", process.report()))
    if call.when == "teardown":
        harness.running[:] = [process for process in harness.running if process.pid is not None]
    return report
