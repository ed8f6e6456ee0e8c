from __future__ import annotations

import json
from typing import Any

import pytest


class Lines:
    """A sink that keeps what it gets."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self.raw: list[bytes] = []
        self.is_terminal = is_terminal

    def write(self, line: bytes) -> None:
        self.raw.append(line)

    def last(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.raw[-1])
        return fields

    def last_text(self) -> str:
        return self.raw[-1].decode()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def terminal() -> Lines:
    return Lines(is_terminal=True)
