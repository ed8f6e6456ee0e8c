"""The memory of this process."""

from __future__ import annotations

import gc
import os
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGESIZE")


class Memory:
    """What this process has. Holds one descriptor, so that it can be asked when there are no others left."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def resident_bytes(self) -> int:
        """What is resident now."""
        return int(os.pread(self._statm, 200, 0).split()[1]) * _PAGE


def give_back() -> None:
    """Hand freed memory back to the system, which neither Python nor the C library does by itself.

    Takes milliseconds: for a process that has too much, not for every day.
    """
    import ctypes  # only here: few processes ever need it, and it takes memory itself

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
