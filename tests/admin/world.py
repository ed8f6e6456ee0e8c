"""The admin application in front of what the supervisor would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from charon.admin.app import AdminApp
from charon.admin.permission import Permissions
from charon.base.errors import StartError
from charon.telemetry.events import EventLog
from charon.telemetry.sink import LogSink


class World:
    """What the supervisor would be."""

    def __init__(self, folder: Path, permissions: Permissions | None = None) -> None:
        self.log = folder / "log"
        self.sink = LogSink(str(self.log))
        self.events = EventLog(self.sink)
        self.refreshed = 0
        self.obstacle: str | None = None
        self.state: dict[str, Any] = {"workers": 2}
        self.app = AdminApp(self, self.events, permissions)
        self.problems: list[str] = []
        self.asked: list[Any] = []

    def not_ready(self) -> str | None:
        return self.obstacle

    def status(self, services: int | None = None, *, history: bool = False) -> dict[str, Any]:
        self.asked.append((services, history))
        return self.state

    def problems_since(self, number: int) -> dict[str, Any]:
        self.asked.append(number)
        return {"last": 0, "problems": []}

    def config(self) -> dict[str, Any]:
        return {"file": "f", "digest": "d", "config": {"workers": 1}}

    def greenlets(self) -> dict[str, list[str]]:
        return {"supervisor": ["health checks"]}

    def reload(self) -> list[str]:
        return self.problems

    def drain(self, delay: float) -> None:
        self.asked.append(delay)

    def intercept(self, command: str) -> dict[str, Any]:
        if self.problems:
            raise StartError(self.problems[0])
        return {"enabled": False}

    def set_log_level(self, level: str) -> None:
        self.asked.append(level)

    def refresh(self) -> None:
        self.refreshed += 1

    def render(self, accept: str) -> tuple[str, bytes]:
        return "text/plain", f"refreshed {self.refreshed} {accept}\n".encode()

    def logged(self) -> list[dict[str, Any]]:
        self.sink.flush()
        return [json.loads(line) for line in self.log.read_bytes().splitlines()]
