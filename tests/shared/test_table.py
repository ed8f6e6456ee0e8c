"""The shared table: its areas, its locks, and processes that die."""

from __future__ import annotations

import fcntl
import os
import signal

import pytest

from charon.shared.table import BUDGET_WORDS, ROW_WORDS, ROWS, SERVICE_ROWS, SharedTable
from tests.shared.processes import in_processes, process_at, view


@pytest.fixture
def table() -> SharedTable:
    return SharedTable.create(4)


def locked(table: SharedTable, index: int) -> bool:
    """Whether another process holds a lock of the table."""
    fd = os.open(f"/proc/self/fd/{table.lock_fds[index]}", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_all_see_what_one_writes(table: SharedTable) -> None:
    other = view(table)
    other.words[table.row(7) + 3] = 1.5
    assert table.words[table.row(7) + 3] == 1.5


def test_a_lock_keeps_others_out_until_its_holder_is_killed(table: SharedTable) -> None:
    with process_at(table, lambda own: own.endpoints.__enter__()) as kill:
        assert locked(table, 0)
        assert not locked(table, 1), "the other lock is another one"
        kill()
        with table.endpoints:
            assert locked(table, 0)
    assert not locked(table, 0)


def test_what_processes_count_under_a_lock_is_exact(table: SharedTable) -> None:
    def count(own: SharedTable, number: int) -> int:
        for _ in range(3000):
            with own.limits:
                own.words[own.row(1)] += 1.0
        return 0

    in_processes(table, 4, count)
    assert table.words[table.row(1)] == 12_000


def test_one_killed_at_any_moment_never_leaves_the_lock_behind(table: SharedTable) -> None:
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            own = view(table)
            while True:
                with own.endpoints:
                    own.words[own.row(2)] += 1.0
        before = table.words[table.row(2)]
        while table.words[table.row(2)] < before + 50:
            os.sched_yield()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with table.endpoints:
            pass
    assert not locked(table, 0)


def areas(table: SharedTable) -> dict[str, range]:
    """The first and last of everything that has a place, by name."""
    found = {}
    for row in (0, 1, ROWS - 1):
        found[f"row {row}"] = range(table.row(row), table.row(row) + ROW_WORDS)
        for slot, cell in enumerate(table.in_flight_cells(row)):
            found[f"in flight {row} {slot}"] = range(cell, cell + 1)
    for service in (0, SERVICE_ROWS - 1):
        for slot in range(table.slots):
            first = table.budget_cells(service, slot)
            found[f"budget {service} {slot}"] = range(first, first + BUDGET_WORDS)
    return found


def test_no_two_things_share_a_word(table: SharedTable) -> None:
    places = areas(table)
    words = [word for place in places.values() for word in place]
    assert len(words) == len(set(words))
    for view_ in (table.named_keys(), table.client_keys(), *(table.connection_keys(slot) for slot in range(4))):
        view_[0] = view_[len(view_) - 1] = 7.0
    assert sum(table.words[word] for word in words) == 0.0
    for number, word in enumerate(words):
        table.words[word] = number + 1.0
    assert [table.words[word] for word in words] == [number + 1.0 for number in range(len(words))]
    for view_ in (table.named_keys(), table.client_keys(), *(table.connection_keys(slot) for slot in range(4))):
        assert (view_[0], view_[len(view_) - 1]) == (7.0, 7.0)


def test_clearing_takes_only_what_it_says(table: SharedTable) -> None:
    places = areas(table)

    def fill() -> None:
        for place in places.values():
            for word in place:
                table.words[word] = 5.0
        for slot in range(4):
            table.connection_keys(slot)[3] = 5.0

    def cleared() -> set[str]:
        names = {name for name, place in places.items() if not any(table.words[word] for word in place)}
        return names | {f"connections {slot}" for slot in range(4) if not table.connection_keys(slot)[3]}

    fill()
    assert cleared() == set()
    table.clear_row(1)
    assert cleared() == {"row 1", *(f"in flight 1 {slot}" for slot in range(4))}
    fill()
    table.clear_slot(2, [0, ROWS - 1])
    assert cleared() == {"in flight 0 2", f"in flight {ROWS - 1} 2", "connections 2"}
    fill()
    table.clear_service_row(0)
    assert cleared() == {f"budget 0 {slot}" for slot in range(4)}


def test_what_is_not_touched_takes_no_memory(table: SharedTable) -> None:
    table.words[table.row(0)] = 1.0
    table.words[table.row(ROWS - 1)] = 1.0
    assert os.fstat(table.fd).st_blocks * 512 < 100_000 < os.fstat(table.fd).st_size
