from __future__ import annotations

import os
from collections.abc import Iterator

import gevent
import pytest

from charon.net.flow import pipes
from tests.net.support import Wires

HANGS = 15.0
"""Seconds after which a test that waits for something that never comes is ended, instead of the whole run."""


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    with gevent.Timeout(HANGS):
        yield


@pytest.fixture(autouse=True)
def no_pipes() -> None:
    """No pipes are left over from other tests."""
    while pipes.spare:
        for end in pipes.spare.pop():
            os.close(end)
    pipes.open = 0


@pytest.fixture
def wires() -> Iterator[Wires]:
    made = Wires()
    yield made
    made.close()
