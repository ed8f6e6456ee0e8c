"""What the discovery tests share: an event log and a callback that can be waited on, and named greenlets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet
from gevent.event import Event as Flag

PATIENCE = 10.0
"""Seconds after which a condition that should have come true long ago has failed."""


class Recorder:
    """An event log that tests read back and wait on."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []
        self._wrote = Flag()

    def event(self, level: str, name: str, **fields: object) -> None:
        self.lines.append((level, name, fields))
        self._wrote.set()

    def named(self, name: str) -> list[dict[str, object]]:
        return [fields for _, line, fields in self.lines if line == name]

    def wait_for(self, name: str, count: int = 1) -> dict[str, object]:
        """The ``count``-th event of that name, as soon as it is there."""
        with gevent.Timeout(PATIENCE, AssertionError(f"no {name} number {count} in {self.lines}")):
            while len(self.named(name)) < count:
                self._wrote.clear()
                self._wrote.wait()
        return self.named(name)[count - 1]


class Changes:
    """A callback that counts its calls; tests wait until what they look for has become true."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self._called = Flag()

    def __call__(self, *args: object) -> None:
        self.calls.append(args)
        self._called.set()

    def until(self, condition: Callable[[], object]) -> None:
        with gevent.Timeout(PATIENCE, AssertionError("the change did not come")):
            while not condition():
                self._called.wait()
                self._called.clear()


def spawn(name: str, function: Callable[..., Any], *args: Any) -> Greenlet[..., Any]:
    greenlet: Greenlet[..., Any] = Greenlet(function, *args)
    greenlet.name = name
    greenlet.start()
    return greenlet
