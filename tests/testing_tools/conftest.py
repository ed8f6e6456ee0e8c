"""Runs the test tools as their users do: as programs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Running:
    """A server program that has said where it listens."""

    process: subprocess.Popen[str]
    host: str
    port: int


Start = Callable[..., Running]


@contextmanager
def _running(module: str, *arguments: str) -> Iterator[Running]:
    command = [sys.executable, "-m", f"charon.testing.{module}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words, _, address = process.stdout.readline().strip().rpartition(" ")
            assert words == "listening on"
            host, _, port = address.rpartition(":")
            yield Running(process, host.strip("[]"), int(port))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """``start("echo_server", "--port", "0")``: the program, listening; it ends with the tests of the file."""
    with ExitStack() as stack:
        yield lambda module, *arguments: stack.enter_context(_running(module, *arguments))
