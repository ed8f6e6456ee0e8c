"""Other processes with a view of their own of one shared table, as workers have."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from charon.shared.table import SharedTable

Work = Callable[[SharedTable, int], int]


def view(table: SharedTable) -> SharedTable:
    """The table as another process maps it, with locks of its own."""
    return SharedTable(table.fd, table.slots, table.lock_fds)


def in_processes(table: SharedTable, count: int, work: Work) -> list[int]:
    """What ``work(table, number)`` gives in each of ``count`` processes that begin together; small numbers."""
    gate_read, gate = os.pipe()
    pids = [_fork(table, number, lambda t, n: (os.read(gate_read, 1), work(t, n))[1]) for number in range(count)]
    os.write(gate, bytes(count))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(gate)
    os.close(gate_read)
    assert 255 not in codes, "a process failed; its own words are above"
    return codes


@contextmanager
def process_at(table: SharedTable, reach: Callable[[SharedTable], None]) -> Iterator[Callable[[], None]]:
    """A process that has done ``reach`` and stays there. Gives what kills it (SIGKILL), and waits for its end."""
    there_read, there = os.pipe()

    def work(own: SharedTable, number: int) -> int:
        reach_and_stay(own)
        return 0

    def reach_and_stay(own: SharedTable) -> None:
        reach(own)
        os.write(there, b"x")
        signal.pause()

    pid = _fork(table, 0, work)
    alive = True

    def kill() -> None:
        nonlocal alive
        if alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            alive = False

    os.close(there)
    try:
        assert os.read(there_read, 1) == b"x", "the process died before it got there"
        yield kill
    finally:
        kill()
        os.close(there_read)


def _fork(table: SharedTable, number: int, work: Work) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 255
    try:
        code = work(view(table), number)
    except BaseException:  # noqa: BLE001 - the process ends here, and says why
        traceback.print_exc()
    finally:
        os._exit(code)
