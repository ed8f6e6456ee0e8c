"""The state of endpoints while workers come and go: one trial each, none lost with a worker, each change told once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from charon.config.snapshot import BreakerSpec, PassiveSpec
from charon.policy.breaker import Admission
from charon.shared.state import EndpointState
from charon.shared.table import SharedTable

WORKERS = 3
ROWS = 2
BREAKER = BreakerSpec(failure_threshold=3, open_duration=10.0)
PASSIVE = PassiveSpec(failures=2, cooldown=7.0, max_ejected_percent=50.0)
TABLE = SharedTable.create(WORKERS)
TABLES = [TABLE, *(SharedTable(TABLE.fd, TABLE.slots, TABLE.lock_fds) for _ in range(WORKERS))]
"""What each process has mapped, the supervisor first."""

AFTER = {"open": {"half_open"}, "half_open": {"open", "closed"}, "closed": {"open"}}
"""Which change of a breaker can follow which."""


@dataclass(eq=False)
class Request:
    worker: int
    row: int
    trial: bool
    began: float


class Machine(RuleBasedStateMachine):
    """Each worker has its own view of the same rows, as processes have; the supervisor has one more."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.told: dict[int, list[str]] = {row: ["closed"] for row in range(ROWS)}
        self.running: list[Request] = []
        self.failed = dict.fromkeys(range(ROWS), 0)
        for row in range(ROWS):
            TABLE.clear_row(row)
        self.views = {holder: self.view(holder) for holder in range(WORKERS + 1)}

    def view(self, holder: int) -> list[EndpointState]:
        """What one process sees of all rows; 0 is the supervisor."""
        states = [EndpointState(TABLES[holder], row, holder, BREAKER, PASSIVE, self.listen(row)) for row in range(ROWS)]
        for state in states:
            state.peers = states
        return states

    def listen(self, row: int) -> Callable[[str], None]:
        def told(change: str) -> None:
            if change in AFTER:
                assert change in AFTER[self.told[row][-1]], f"{change} after {self.told[row]}"
                self.told[row].append(change)

        return told

    def end(self, which: int) -> tuple[Request, EndpointState]:
        request = self.running.pop(which % len(self.running))
        return request, self.views[request.worker][request.row]

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(worker=st.integers(1, WORKERS), row=st.integers(0, ROWS - 1))
    def request(self, worker: int, row: int) -> None:
        state = self.views[worker][row]
        if not state.usable(self.now, ejected_too=True):
            if not state.is_down():  # another worker may have looked before the trial began, and ask only now
                assert state.admit(self.now) is Admission.REFUSED
            return
        due = state.breaker_state() != "closed"
        admission = state.admit(self.now)
        assert admission is (Admission.TRIAL if due else Admission.PASS), "usable and admitted are one"
        self.running.append(Request(worker, row, admission is Admission.TRIAL, self.now))

    @rule(row=st.integers(0, ROWS - 1), waits=st.booleans())
    def outage(self, row: int, waits: bool) -> None:
        """Nothing works for a while, whichever worker tries it: without this, breakers would hardly ever open."""
        for number in range(BREAKER.failure_threshold):
            state = self.views[1 + number % WORKERS][row]
            if state.breaker_state() == "closed" and not state.is_down():
                assert state.admit(self.now) is Admission.PASS
                state.failure(self.now, self.now, trial=False)
                self.failed[row] += 1
        assert self.views[0][row].is_down() or self.views[0][row].breaker_state() != "closed"
        if waits:
            self.now += BREAKER.open_duration

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99))
    def succeeds(self, which: int) -> None:
        request, state = self.end(which)
        state.success(self.now, request.began, trial=request.trial)
        if request.trial:
            assert state.breaker_state() == "closed"

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99))
    def fails(self, which: int) -> None:
        request, state = self.end(which)
        state.failure(self.now, request.began, trial=request.trial)
        self.failed[request.row] += 1
        if request.trial:
            assert state.breaker_state() == "open" and not state.usable(self.now, ejected_too=True)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99))
    def ends_without_evidence(self, which: int) -> None:
        request, state = self.end(which)
        if request.trial:
            state.release()

    @rule(worker=st.integers(1, WORKERS))
    def worker_dies(self, worker: int) -> None:
        """Its requests say nothing any more; the supervisor frees its trials, and another process takes its place."""
        self.running = [request for request in self.running if request.worker != worker]
        for state in self.views[0]:
            state.release_holder(worker)
        TABLE.clear_slot(worker - 1, range(ROWS))

    @rule(row=st.integers(0, ROWS - 1), down=st.booleans())
    def probed(self, row: int, down: bool) -> None:
        self.views[0][row].set_down(down, self.now)
        assert self.views[1][row].is_down() is down
        if down:
            assert not self.views[1][row].usable(self.now, ejected_too=True)

    @invariant()
    def a_trial_is_one_and_is_somebodys(self) -> None:
        for row in range(ROWS):
            trials = [request.worker for request in self.running if request.row == row and request.trial]
            state = self.views[0][row]
            holder = state._read_breaker().trial
            assert len(trials) <= 1
            if state.breaker_state() == "half_open":
                assert trials == ([holder] if holder else [])
            else:
                assert not trials and not holder

    @invariant()
    def all_processes_see_the_same_and_heard_of_it(self) -> None:
        for row in range(ROWS):
            states = [view[row] for view in self.views.values()]
            assert {state.breaker_state() for state in states} == {self.told[row][-1]}
            assert len({state.usable(self.now) for state in states}) == 1
            assert len({state.plain() for state in states}) == 1
            if not self.failed[row] and not states[0].is_down():
                assert states[0].plain(), "nothing has been said against it"

    @invariant()
    def an_open_breaker_comes_to_a_trial(self) -> None:
        later = self.now + BREAKER.open_duration
        for row, state in enumerate(self.views[0]):
            running = any(request.row == row and request.trial for request in self.running)
            assert running or state.is_down() or state.usable(later, ejected_too=True)

    @invariant()
    def not_all_are_set_aside(self) -> None:
        assert sum(state.is_ejected(self.now) for state in self.views[0]) <= 1


Machine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a failure is short enough, and making it shorter takes long
)
TestMachine = Machine.TestCase
