"""The circuit breaker: what each step does, and what no sequence of steps can break."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from charon.config.snapshot import BreakerSpec
from charon.policy.breaker import (
    FRESH,
    TRIAL_PATIENCE,
    WORDS,
    Admission,
    Breaker,
    State,
    admit,
    failure,
    of_words,
    release,
    retry_after,
    success,
    would_admit,
)

SPEC = BreakerSpec(failure_threshold=3, open_duration=20.0)
RATED = BreakerSpec(failure_threshold=1000, open_duration=20.0, error_rate=0.5, window=10.0, min_requests=10)
NOW = 1000.0


def failed(times: int, spec: BreakerSpec = SPEC, b: Breaker = FRESH, now: float = NOW) -> Breaker:
    for _ in range(times):
        b = failure(b, spec, now, trial=False)
    return b


def half_open(holder: int = 1) -> Breaker:
    b, admission = admit(failed(3), SPEC, NOW + 20, holder)
    assert admission is Admission.TRIAL
    return b


@given(threshold=st.integers(1, 50))
def test_opens_after_exactly_the_threshold(threshold: int) -> None:
    spec = BreakerSpec(failure_threshold=threshold)
    assert failed(threshold - 1, spec).state == State.CLOSED
    assert failed(threshold, spec).state == State.OPEN


def test_a_success_starts_the_count_anew() -> None:
    b = success(failed(2), SPEC, NOW, trial=False)
    assert b.failures == 0
    assert failed(2, b=b).state == State.CLOSED
    assert failed(3, b=b).state == State.OPEN


def test_closed_admits_and_changes_nothing() -> None:
    b, admission = admit(FRESH, SPEC, NOW, 1)
    assert b is FRESH and admission is Admission.PASS
    assert success(FRESH, SPEC, NOW, trial=False) is FRESH


def test_open_refuses_until_open_duration_is_over() -> None:
    b = failed(3)
    assert admit(b, SPEC, NOW + 19.9, 1) == (b, Admission.REFUSED)
    after, admission = admit(b, SPEC, NOW + 20, 7)
    assert admission is Admission.TRIAL
    assert (after.state, after.trial, after.changed_at) == (State.HALF_OPEN, 7, NOW + 20)


def test_half_open_has_one_trial() -> None:
    b = half_open(holder=1)
    assert admit(b, SPEC, NOW + 100, 2) == (b, Admission.REFUSED)
    assert admit(b, SPEC, NOW + 100, 1) == (b, Admission.REFUSED)


def test_the_trial_decides() -> None:
    b = half_open()
    closed = success(b, SPEC, NOW + 21, trial=True)
    assert (closed.state, closed.failures, closed.trial, closed.changed_at) == (State.CLOSED, 0, 0, NOW + 21)
    reopened = failure(b, SPEC, NOW + 21, trial=True)
    assert (reopened.state, reopened.trial, reopened.changed_at) == (State.OPEN, 0, NOW + 21)
    assert not would_admit(reopened, SPEC, NOW + 40)
    assert would_admit(reopened, SPEC, NOW + 41)


@pytest.mark.parametrize("b", [failed(3), half_open(), release(half_open(), 1)], ids=["open", "trial", "released"])
def test_others_results_change_nothing_while_not_closed(b: Breaker) -> None:
    assert success(b, SPEC, NOW + 21, trial=False) is b
    assert failure(b, SPEC, NOW + 21, trial=False) is b


def test_a_released_trial_goes_to_the_next_request() -> None:
    b = release(half_open(holder=1), 1)
    assert (b.state, b.trial) == (State.HALF_OPEN, 0)
    assert would_admit(b, SPEC, NOW + 20)
    after, admission = admit(b, SPEC, NOW + 20, 2)
    assert admission is Admission.TRIAL and after.trial == 2


@pytest.mark.parametrize("b", [FRESH, failed(3), half_open(holder=2)], ids=["closed", "open", "anothers"])
def test_releasing_what_one_does_not_hold_changes_nothing(b: Breaker) -> None:
    assert release(b, 1) is b


def test_what_was_admitted_before_the_change_says_nothing_after_it() -> None:
    closed = success(half_open(), SPEC, NOW + 21, trial=True)
    one = failure(closed, SPEC, NOW + 30, trial=False, began=NOW + 22)
    assert one.failures == 1
    assert failure(one, SPEC, NOW + 30, trial=False, began=NOW + 5) is one
    assert success(one, SPEC, NOW + 30, trial=False, began=NOW + 5) is one
    rated = Breaker(*one)
    assert success(rated, RATED, NOW + 30, trial=False, began=NOW + 5) is rated


def test_retry_after() -> None:
    assert retry_after(FRESH, SPEC, NOW) == 0
    assert retry_after(failed(3), SPEC, NOW + 5) == 15
    assert retry_after(failed(3), SPEC, NOW + 25) == 0
    assert retry_after(half_open(), SPEC, NOW + 25) == TRIAL_PATIENCE
    assert retry_after(release(half_open(), 1), SPEC, NOW + 25) == 0


def test_a_row_of_words_is_a_breaker() -> None:
    row = array("d", bytes(8 * WORDS))
    assert of_words(row) == FRESH
    for step in range(3):
        row[:] = array("d", failure(of_words(row), SPEC, NOW + step, trial=False))
    assert row[0] == State.OPEN
    b, admission = admit(of_words(row), SPEC, NOW + 22, 3)
    row[:] = array("d", b)
    assert admission is Admission.TRIAL
    assert release(of_words(row), 3).trial == 0
    assert success(of_words(row), SPEC, NOW + 23, trial=True).state == State.CLOSED


# -- the error rate ---------------------------------------------------------------------------------------------------


def mixed(results: str, b: Breaker = FRESH, now: float = NOW, step: float = 0.0) -> Breaker:
    """``results``: one letter a request, ``f`` for a failure."""
    for result in results:
        b = (failure if result == "f" else success)(b, RATED, now, trial=False)
        now += step
    return b


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("sf" * 5, State.OPEN),
        ("sf" * 4 + "s", State.CLOSED),  # too few to say
        ("ssf" * 20, State.CLOSED),  # a third
        ("f" * 9, State.CLOSED),
        ("f" * 10, State.OPEN),
        ("fffffsssss", State.CLOSED),  # the share is reached with a success: nothing opens on good news
        ("fffffsssssf", State.OPEN),
    ],
)
def test_error_rate(results: str, state: State) -> None:
    assert mixed(results).state == state


def test_requests_beyond_the_window_are_forgotten() -> None:
    b = mixed("fffff" + "ssss")
    assert failure(b, RATED, NOW + 4, trial=False).state == State.OPEN
    assert failure(b, RATED, NOW + 9.9, trial=False).state == State.OPEN
    assert failure(b, RATED, NOW + 10, trial=False).state == State.CLOSED


def test_after_closing_the_share_is_counted_anew() -> None:
    b, _ = admit(mixed("sf" * 5), RATED, NOW + 20, 1)
    b = success(b, RATED, NOW + 20, trial=True)
    assert mixed("f" * 9, b, NOW + 20).state == State.CLOSED


@given(st.lists(st.tuples(st.floats(0, 6), st.booleans()), max_size=60))
def test_the_window_never_looks_back_further_than_it_says_nor_less_than_half(events: list[tuple[float, bool]]) -> None:
    spec = BreakerSpec(failure_threshold=10**6, error_rate=1.0, window=8.0, min_requests=10**6)
    b, now, seen = FRESH, NOW, list[tuple[float, bool]]()
    for pause, ok in events:
        now += pause
        b = (success if ok else failure)(b, spec, now, trial=False)
        seen.append((now, ok))
        half = [ok for at, ok in seen if now - at < 4 - 1e-6]
        whole = [ok for at, ok in seen if now - at < 8 + 1e-6]
        assert len(half) <= b.requests + b.earlier_requests <= len(whole)
        assert half.count(False) <= b.failed + b.earlier_failed <= whole.count(False)


# -- any sequence -----------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Requests of several holders come, end in any way and any order; their workers die."""

    spec = SPEC

    def __init__(self) -> None:
        super().__init__()
        self.b = FRESH
        self.now = NOW
        self.running: list[tuple[int, bool, float]] = []  # holder, trial, began
        self.in_a_row = 0  # failures that count, since the last that did not
        self.opened = 0
        self.transitions = 0

    def step(self, after: Breaker) -> None:
        self.transitions += after.state != self.b.state
        self.opened += after.state == State.OPEN and self.b.state != State.OPEN
        self.b = after

    def end(self, data: st.DataObject) -> tuple[int, bool, float]:
        return self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(holder=st.integers(1, 4))
    def request(self, holder: int) -> None:
        expected = would_admit(self.b, self.spec, self.now)
        after, admission = admit(self.b, self.spec, self.now, holder)
        assert bool(admission) is expected
        assert (admission is Admission.PASS) is (self.b.state == State.CLOSED)
        self.step(after)
        if admission:
            self.running.append((holder, admission is Admission.TRIAL, self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeeds(self, data: st.DataObject) -> None:
        _, trial, began = self.end(data)
        counts = self.b.state == State.CLOSED and began >= self.b.changed_at
        self.step(success(self.b, self.spec, self.now, trial, began))
        if trial:
            assert self.b.state == State.CLOSED
        if trial or counts:
            self.in_a_row = 0

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fails(self, data: st.DataObject) -> None:
        _, trial, began = self.end(data)
        counts = self.b.state == State.CLOSED and began >= self.b.changed_at
        before = self.b
        self.step(failure(self.b, self.spec, self.now, trial, began))
        if trial:
            assert self.b.state == State.OPEN
        elif counts:
            self.in_a_row += 1
            assert (self.b.state == State.OPEN) is (self.in_a_row >= self.spec.failure_threshold)
        else:
            assert self.b is before

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def ends_without_evidence(self, data: st.DataObject) -> None:
        holder, trial, _ = self.end(data)
        if trial:
            self.step(release(self.b, holder))
            assert self.b.trial == 0 and would_admit(self.b, self.spec, self.now)

    @rule(holder=st.integers(1, 4))
    def worker_dies(self, holder: int) -> None:
        self.running = [request for request in self.running if request[0] != holder]
        self.step(release(self.b, holder))

    @invariant()
    def at_most_one_trial_and_its_holder_is_known(self) -> None:
        trials = [holder for holder, trial, _ in self.running if trial]
        assert trials == ([self.b.trial] if self.b.trial else [])
        assert not self.b.trial or self.b.state == State.HALF_OPEN

    @invariant()
    def no_state_is_dead(self) -> None:
        b = release(self.b, self.b.trial)
        later = self.now + self.spec.open_duration
        b, admission = admit(b, self.spec, later, 9)
        assert admission
        assert success(b, self.spec, later, admission is Admission.TRIAL, later).state == State.CLOSED

    @invariant()
    def refused_requests_are_told_when(self) -> None:
        wait = retry_after(self.b, self.spec, self.now)
        assert 0 <= wait <= max(self.spec.open_duration, TRIAL_PATIENCE)
        assert (wait == 0) is would_admit(self.b, self.spec, self.now)


class RatedMachine(Machine):
    """The same with an error rate that no share of failures reaches before the threshold does."""

    spec = BreakerSpec(failure_threshold=3, open_duration=20.0, error_rate=1.0, window=5.0, min_requests=10**6)


Machine.TestCase.settings = RatedMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestMachine = Machine.TestCase
TestRatedMachine = RatedMachine.TestCase
