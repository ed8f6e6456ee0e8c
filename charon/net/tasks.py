"""Named greenlets: the one way to start one, so that a listing says what each is doing."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet


def spawn(name: str, function: Callable[..., Any], *args: Any) -> Greenlet[..., Any]:
    """Run ``function(*args)`` in a greenlet called ``name``."""
    greenlet: Greenlet[..., Any] = Greenlet(function, *args)
    greenlet.name = name
    greenlet.start()
    return greenlet


def rename(name: str) -> None:
    """Give the running greenlet a name (connection greenlets come unnamed out of their server's pool)."""
    current = gevent.getcurrent()
    if isinstance(current, Greenlet):
        current.name = name


def names() -> list[str]:
    """The names of all live greenlets of this process, sorted."""
    # By type, not isinstance: that asks weak proxies for the class of what they stood for, which may be gone.
    greenlets = [item for item in gc.get_objects() if issubclass(type(item), Greenlet)]
    return sorted(greenlet.name for greenlet in greenlets if not greenlet.dead)
