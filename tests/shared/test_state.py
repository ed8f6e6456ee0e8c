"""The state of an endpoint that all processes share."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from time import monotonic

import pytest

from charon.config.snapshot import BreakerSpec, PassiveSpec
from charon.policy.breaker import Admission
from charon.shared.state import EndpointState
from charon.shared.table import SharedTable
from tests.shared.processes import in_processes, process_at

BREAKER = BreakerSpec(failure_threshold=3, open_duration=10.0)
PASSIVE = PassiveSpec(failures=2, cooldown=10.0, max_ejected_percent=50.0)


@pytest.fixture
def table() -> SharedTable:
    return SharedTable.create(4)


class Told(list[str]):
    """What an endpoint's state has said of itself."""


def state_of(
    table: SharedTable,
    row: int = 0,
    holder: int = 1,
    breaker: BreakerSpec | None = BREAKER,
    passive: PassiveSpec | None = None,
    told: Callable[[str], None] = lambda change: None,
) -> EndpointState:
    return EndpointState(table, row, holder, breaker, passive, told)


def fail(state: EndpointState, times: int, now: float = 100.0, *, trial: bool = False) -> None:
    for _ in range(times):
        state.failure(now, now, trial=trial)


# -- one after the other ----------------------------------------------------------------------------------------------


def test_a_healthy_endpoint_has_nothing_to_say(table: SharedTable) -> None:
    told = Told()
    state = state_of(table, told=told.append)
    assert state.plain() and state.usable(0.0)
    assert state.admit(0.0) is Admission.PASS
    state.success(1.0, 0.5, trial=False)
    assert not any(table.words[0:32]) and not told


def test_one_fails_and_another_sees_it(table: SharedTable) -> None:
    told, other_told = Told(), Told()
    first = state_of(table, holder=1, told=told.append)
    other = state_of(table, holder=2, told=other_told.append)
    fail(first, 2)
    assert not other.plain() and other.usable(100.0)
    fail(other, 1)
    assert (told, other_told) == ([], ["open"])
    assert not first.usable(105.0) and not first.usable(105.0, ejected_too=True)
    assert first.admit(105.0) is Admission.REFUSED
    assert first.retry_after(105.0) == 5.0
    assert first.breaker_state() == "open"


def test_a_success_takes_back_what_was_counted(table: SharedTable) -> None:
    state = state_of(table, passive=PASSIVE)
    state.peers = [state]
    state.failure(1.0, 0.9, trial=False)
    assert not state.plain()
    state.success(2.0, 1.5, trial=False)
    assert state.plain()


def test_the_trial_from_begin_to_end(table: SharedTable) -> None:
    told = Told()
    first, other = (state_of(table, holder=holder, told=told.append) for holder in (1, 2))
    fail(first, 3)
    assert other.usable(110.0)
    assert other.admit(110.0) is Admission.TRIAL
    assert first.admit(110.0) is Admission.REFUSED and not first.usable(110.0)
    first.release()  # not its own
    assert first.admit(110.0) is Admission.REFUSED
    other.release()
    assert first.admit(111.0) is Admission.TRIAL
    fail(first, 1, 112.0, trial=True)
    assert first.admit(121.9) is Admission.REFUSED
    assert first.admit(122.0) is Admission.TRIAL
    first.success(123.0, 122.0, trial=True)
    assert told == ["open", "half_open", "open", "half_open", "closed"]
    assert other.plain()
    assert other.returned_at(130.0) == 123.0


def test_what_probes_say_is_apart_from_what_traffic_says(table: SharedTable) -> None:
    state = state_of(table, passive=PASSIVE)
    state.peers = [state]
    fail(state, 2)
    assert state.is_ejected(105.0)
    assert not state.usable(105.0) and state.usable(105.0, ejected_too=True)
    state.set_down(True, 105.0)
    assert not state.usable(105.0, ejected_too=True)
    state.set_down(False, 106.0)
    assert state.is_ejected(107.0), "a port that accepts is no proof"
    assert state.usable(110.0), "time is"
    assert state.returned_at(111.0) == 110.0


def test_one_that_can_be_reached_again_need_not_wait_for_its_trial(table: SharedTable) -> None:
    state = state_of(table)
    fail(state, 3)
    state.set_down(True, 101.0)
    assert not state.usable(102.0)
    state.set_down(False, 103.0)
    assert state.admit(103.0) is Admission.TRIAL


def test_only_a_share_is_set_aside(table: SharedTable) -> None:
    told = Told()
    states = [state_of(table, row, breaker=None, passive=PASSIVE, told=told.append) for row in range(4)]
    for state in states:
        state.peers = states
    for state in states:
        fail(state, 3)
    assert [state.is_ejected(101.0) for state in states] == [True, True, False, False]
    assert told == ["ejected", "ejected"]
    states[0].success(102.0, 101.0, trial=False)
    assert told[-1] == "returned" and not states[0].is_ejected(102.0)


def test_without_a_breaker_and_passive_health_nothing_is_kept(table: SharedTable) -> None:
    state = state_of(table, breaker=None)
    fail(state, 50)
    assert state.plain() and state.usable(100.0) and state.admit(100.0) is Admission.PASS


def test_one_that_joins_others_begins_slowly(table: SharedTable) -> None:
    state = state_of(table)
    assert state.returned_at(50.0) == 0.0
    state.joined(40.0)
    assert state.returned_at(50.0) == 40.0 and state.plain()


# -- four processes at once -------------------------------------------------------------------------------------------


def test_many_failures_in_four_processes_open_it_once(table: SharedTable) -> None:
    def work(own: SharedTable, number: int) -> int:
        told = Told()
        state = state_of(own, holder=number + 1, breaker=BreakerSpec(100, 60.0), told=told.append)
        fail(state, 200, monotonic())
        return told.count("open")

    assert sum(in_processes(table, 4, work)) == 1
    assert state_of(table).breaker_state() == "open"


def test_failures_of_four_processes_add_up(table: SharedTable) -> None:
    def work(own: SharedTable, number: int) -> int:
        fail(state_of(own, holder=number + 1, breaker=BreakerSpec(1001, 60.0)), 250, 1.0)
        return 0

    in_processes(table, 4, work)
    told = Told()
    state = state_of(table, breaker=BreakerSpec(1001, 60.0), told=told.append)
    assert state.breaker_state() == "closed"
    fail(state, 1, 1.0)
    assert told == ["open"]


def test_exactly_one_of_four_processes_gets_each_trial(table: SharedTable) -> None:
    spec = BreakerSpec(1, 0.0)
    rounds = 50

    def work(own: SharedTable, number: int) -> int:
        """Each row is one round; everybody asks for its trial a few times."""
        states = [state_of(own, row, number + 1, spec) for row in range(rounds)]
        return sum(state.admit(200.0) is Admission.TRIAL for state in states for _ in range(5))

    for row in range(rounds):
        fail(state_of(table, row, breaker=spec), 1)
    assert sum(in_processes(table, 4, work)) == rounds


def test_a_killed_process_leaves_its_trial_to_the_next(table: SharedTable) -> None:
    fail(state_of(table), 3)

    def take(own: SharedTable) -> None:
        assert state_of(own, holder=3).admit(110.0) is Admission.TRIAL

    with process_at(table, take) as kill:
        mine = state_of(table, holder=1)
        assert mine.admit(110.0) is Admission.REFUSED
        kill()
        assert mine.admit(110.0) is Admission.REFUSED
        supervisor = state_of(table, holder=0)
        supervisor.release_holder(2)
        assert mine.admit(110.0) is Admission.REFUSED, "that one was another's"
        supervisor.release_holder(3)
        assert mine.admit(110.0) is Admission.TRIAL


def test_four_processes_together_set_aside_no_more_than_the_share(table: SharedTable) -> None:
    spec = PassiveSpec(failures=1, cooldown=60.0, max_ejected_percent=30.0)

    def work(own: SharedTable, number: int) -> int:
        told = Told()
        states = [state_of(own, row, number + 1, None, spec, told.append) for row in range(20)]
        for state in states:
            state.peers = states
        for index in range(20):
            fail(states[(index * 7 + number * 5) % 20], 2)
        return told.count("ejected")

    assert sum(in_processes(table, 4, work)) == 6
    assert sum(state_of(table, row, passive=spec).is_ejected(101.0) for row in range(20)) == 6


def test_processes_that_die_amid_changes_leave_a_row_that_works(table: SharedTable) -> None:
    """Wherever it is hit, the next ones can take the lock and bring the endpoint back."""
    spec = BreakerSpec(2, 0.0)
    for round_ in range(10):
        pid = os.fork()
        if pid == 0:
            state = state_of(SharedTable(table.fd, table.slots, table.lock_fds), 0, 2, spec, PASSIVE)
            state.peers = [state]
            for number in count():
                now = 1000.0 * round_ + number
                trial = state.admit(now) is Admission.TRIAL
                (state.success if number % 3 == 0 else state.failure)(now, now, trial=trial)
        state = state_of(table, 0, 1, spec, PASSIVE)
        seen = state._read_breaker()
        while state._read_breaker() == seen:
            os.sched_yield()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        state.release_holder(2)
        if state.breaker_state() != "closed":
            assert state.admit(1e9) is Admission.TRIAL
            state.success(1e9, 1e9, trial=True)
        assert state.breaker_state() == "closed"
        table.clear_row(0)
        assert state.plain()
