"""Waiting for what has no event of its own, and clocks other than the wall's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TypeVar

from tests.harness import PATIENCE

T = TypeVar("T")


def eventually(look: Callable[[], T], timeout: float = PATIENCE) -> T:
    """What ``look`` gives, once that is true; asked a hundred times a second. AssertionError when it never is."""
    cutoff = monotonic() + timeout
    pause = threading.Event()
    while not (found := look()):
        assert monotonic() < cutoff, f"still {found!r} after {timeout:g} s"
        pause.wait(0.01)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    """Whether a process runs (and is no zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
