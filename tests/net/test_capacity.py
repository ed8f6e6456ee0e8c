"""Whether there is room for another connection, and who is told when there is again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from charon.net.capacity import Capacity, reserve


class Listener:
    """Asks for room, and notes when it is told of some."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.told = 0

    def full(self) -> bool:
        return self.capacity.full(self.tell)

    def tell(self) -> None:
        self.told += 1


def with_open(count: int, limit: float) -> Capacity:
    capacity = Capacity(1024)
    capacity.set_limit(limit)
    for _ in range(count):
        capacity.entered()
    return capacity


def test_without_limits_there_is_room() -> None:
    capacity = with_open(100_000, float("inf"))
    assert not Listener(capacity).full() and capacity.paused is None


def test_whoever_found_no_room_is_told_once_when_a_connection_ends() -> None:
    capacity = with_open(3, 3)
    one, other = Listener(capacity), Listener(capacity)
    assert one.full() and other.full() and one.full()
    assert (capacity.paused, capacity.pauses) == ("connections", {"connections": 1})
    capacity.left()
    assert (one.told, other.told, capacity.paused) == (1, 1, None)
    capacity.left()
    assert (one.told, other.told) == (1, 1)


def test_a_connection_that_ends_over_the_limit_makes_no_room() -> None:
    capacity = with_open(5, 3)
    listener = Listener(capacity)
    assert listener.full()
    capacity.left()
    assert (listener.told, capacity.paused) == (0, "connections")
    capacity.set_limit(10)
    assert (listener.told, capacity.paused) == (1, None)


def test_none_is_taken_while_memory_is_short() -> None:
    capacity = with_open(0, 10)
    listener = Listener(capacity)
    capacity.hold(True)
    assert listener.full() and capacity.paused == "memory"
    capacity.look()
    assert not listener.told
    capacity.hold(False)
    assert listener.told and not listener.full()


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


def roomy_limit() -> int:
    """A limit of descriptors that is reached well after the highest that this process has."""
    return 2 * max(map(int, os.listdir("/proc/self/fd"))) + 120


def test_the_last_descriptors_are_left_alone(descriptors: list[int]) -> None:
    limit = roomy_limit()
    capacity = Capacity(limit)
    listener = Listener(capacity)
    while not listener.full():
        descriptors.append(os.dup(0))
        capacity.accepted(descriptors[-1])
    assert capacity.paused == "descriptors"
    assert descriptors[-1] == limit - reserve(limit) - 1
    os.close(descriptors.pop())
    capacity.look()
    assert listener.told, "one is free again"
    descriptors.append(os.dup(0))
    assert listener.full()


def test_room_that_no_connection_has_made_is_found(descriptors: list[int]) -> None:
    """An idle connection to an endpoint that is closed gives a descriptor back as well."""
    capacity = Capacity(roomy_limit())
    listener = Listener(capacity)
    while not listener.full():
        descriptors.append(os.dup(0))
        capacity.accepted(descriptors[-1])
    for fd in descriptors[-30:]:
        os.close(fd)
    del descriptors[-30:]
    capacity.look()
    assert listener.told == 1 and not listener.full()


@pytest.mark.parametrize(("limit", "kept"), [(32, 16), (1024, 256), (20_000, 4096), (1 << 20, 4096)])
def test_how_many_are_left_alone(limit: int, kept: int) -> None:
    assert reserve(limit) == kept


def test_a_process_takes_all_the_descriptors_it_may_have() -> None:
    code = (
        "import resource; from charon.net.capacity import raise_descriptor_limit;"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    command = ["prlimit", "--nofile=100:300", sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer.split() == ["300"] * 3
