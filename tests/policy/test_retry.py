"""Retries: which tries may be made again, after what time, and how many beside the requests."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base import errors
from charon.base.errors import (
    CLIENT_ABORT,
    CONNECT_FAILED,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    INTERNAL,
    LOCAL_LIMIT,
    REQUEST_DEADLINE,
    RESPONSE_TIMEOUT,
    UPSTREAM_IDENTITY,
    UPSTREAM_IDLE,
    UPSTREAM_MALFORMED,
    UPSTREAM_RESET,
    UPSTREAM_TLS_FAILED,
    UPSTREAM_TRUNCATED,
    Reason,
)
from charon.config.snapshot import RetrySpec
from charon.policy.retry import (
    IDEMPOTENT,
    WINDOW_CELLS,
    WINDOW_SECONDS,
    Budget,
    RetryPolicy,
    TryOutcome,
    Window,
    backoff,
    condition,
    may_retry,
)

NOW = 1000.0
REASONS = [value for value in vars(errors).values() if isinstance(value, Reason)]
WORDS = ["connect-failure", "refused", "reset", "timeout", "5xx", "gateway-error", "503", "404"]
EVERYTHING = RetryPolicy.compile(RetrySpec(on=tuple(WORDS)))


def failed(reason: Reason, method: bytes = b"GET", sent: int = 100, received: int = 0) -> TryOutcome:
    return TryOutcome(reason, method, 0 if reason.unsent else sent, received, replayable=True)


def answered(status: int, method: bytes = b"GET") -> TryOutcome:
    return TryOutcome(None, method, sent=100, received=200, replayable=True, status=status)


def on(*words: str, any_method: bool = False) -> RetryPolicy:
    return RetryPolicy.compile(RetrySpec(on=words, any_method=any_method))


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reasons"),
    [
        ("connect-failure", {CONNECT_REFUSED, CONNECT_FAILED, CONNECT_TIMEOUT, UPSTREAM_TLS_FAILED, UPSTREAM_IDENTITY}),
        ("refused", {CONNECT_REFUSED}),
        ("reset", {UPSTREAM_RESET}),
        ("timeout", {CONNECT_TIMEOUT, RESPONSE_TIMEOUT, UPSTREAM_IDLE}),
        ("5xx", set()),
        ("503", set()),
    ],
)
def test_which_failures_a_word_covers(word: str, reasons: set[Reason]) -> None:
    assert {reason for reason in REASONS if may_retry(failed(reason), 1, on(word))} == reasons


@pytest.mark.parametrize(
    ("word", "statuses"),
    [
        ("5xx", set(range(500, 600))),
        ("gateway-error", {502, 503, 504}),
        ("503", {503}),
        ("429", {429}),
        ("reset", set()),
    ],
)
def test_which_answers_a_word_covers(word: str, statuses: set[int]) -> None:
    assert {status for status in range(200, 600) if may_retry(answered(status), 1, on(word))} == statuses


@pytest.mark.parametrize(
    ("spelling", "word"),
    [("connect_failure", "connect-failure"), ("Gateway-Error", "gateway-error"), (" 5XX ", "5xx"), ("503", "503")],
)
def test_spellings(spelling: str, word: str) -> None:
    assert condition(spelling) == word
    assert on(spelling) == on(word)


@pytest.mark.parametrize("word", ["", "resets", "200", "600", "50", "5032", "-503", "٥٠٣"])
def test_other_words_are_errors(word: str) -> None:
    with pytest.raises(ValueError, match="is not a retry condition"):
        on("reset", word)


def test_the_default_is_connect_failures_and_resets() -> None:
    assert RetryPolicy.compile(RetrySpec()) == on("connect-failure", "reset")
    for reason in REASONS:
        tls = {UPSTREAM_TLS_FAILED, UPSTREAM_IDENTITY}
        expected = reason in {CONNECT_REFUSED, CONNECT_FAILED, CONNECT_TIMEOUT, UPSTREAM_RESET} | tls
        assert may_retry(failed(reason), 1) is expected, reason


# -- what is never repeated -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "harmless"),
    [
        (failed(CONNECT_REFUSED, b"POST"), True),
        (failed(UPSTREAM_RESET, b"POST"), False),
        (failed(UPSTREAM_RESET, b"POST", sent=0), True),  # closed before it took anything
        (failed(UPSTREAM_IDLE, b"POST", sent=0), True),
        (failed(RESPONSE_TIMEOUT, b"PATCH"), False),
        (answered(503, b"POST"), False),
        (answered(503, b"PUT"), True),
    ],
)
def test_what_may_have_been_acted_on(outcome: TryOutcome, harmless: bool) -> None:
    assert may_retry(outcome, 1, EVERYTHING) is harmless
    assert may_retry(outcome, 1, EVERYTHING._replace(any_method=True))


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])
def test_idempotent_methods(method: bytes) -> None:
    assert may_retry(failed(UPSTREAM_RESET, method), 1)


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"get", b"PROPFIND"])
def test_other_methods(method: bytes) -> None:
    assert not may_retry(failed(UPSTREAM_RESET, method), 1)


@pytest.mark.parametrize("reason", [UPSTREAM_RESET, RESPONSE_TIMEOUT, UPSTREAM_IDLE])
def test_a_failure_after_the_first_byte_of_an_answer(reason: Reason) -> None:
    assert may_retry(failed(reason, received=0), 1, EVERYTHING)
    assert not may_retry(failed(reason, received=1), 1, EVERYTHING._replace(any_method=True))


@pytest.mark.parametrize("outcome", [answered(503), failed(UPSTREAM_RESET), failed(CONNECT_REFUSED)])
def test_nothing_is_repeated_that_cannot_be(outcome: TryOutcome) -> None:
    assert may_retry(outcome, 1, EVERYTHING)
    assert not may_retry(outcome, 0, EVERYTHING)
    assert not may_retry(outcome._replace(passed_on=True), 1, EVERYTHING)
    assert not may_retry(outcome._replace(replayable=False), 1, EVERYTHING)


def test_an_unsent_request_still_needs_its_condition() -> None:
    assert not may_retry(failed(CONNECT_REFUSED), 1, on("reset", "503"))
    assert not may_retry(failed(UPSTREAM_RESET, sent=0), 1, on("503"))
    assert may_retry(failed(UPSTREAM_RESET, sent=0), 1, on("connect-failure"))


OUTCOMES = st.builds(
    TryOutcome,
    reason=st.one_of(st.none(), st.sampled_from(REASONS)),
    method=st.sampled_from([b"GET", b"PUT", b"POST", b"PATCH"]),
    sent=st.integers(0, 2),
    received=st.integers(0, 2),
    replayable=st.booleans(),
    status=st.sampled_from([0, 200, 404, 500, 503]),
    passed_on=st.booleans(),
)


@given(OUTCOMES, st.integers(-1, 2), st.lists(st.sampled_from(WORDS)), st.booleans())
def test_never(outcome: TryOutcome, tries_left: int, words: list[str], any_method: bool) -> None:
    if not may_retry(outcome, tries_left, on(*words, any_method=any_method)):
        return
    assert words and tries_left > 0 and outcome.replayable and not outcome.passed_on
    reason = outcome.reason
    if reason is None:
        assert outcome.status >= 400
    else:
        assert reason.blame is errors.Blame.UPSTREAM and outcome.received == 0
        assert reason not in {UPSTREAM_TRUNCATED, REQUEST_DEADLINE} or outcome.sent == 0
    untouched = reason is not None and (reason.unsent or outcome.sent == 0)
    assert untouched or any_method or outcome.method in IDEMPOTENT


@pytest.mark.parametrize("reason", [CLIENT_ABORT, INTERNAL, LOCAL_LIMIT, UPSTREAM_MALFORMED, UPSTREAM_TRUNCATED])
def test_failures_that_no_word_covers(reason: Reason) -> None:
    assert not may_retry(failed(reason), 1, EVERYTHING._replace(any_method=True))


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_longest() -> None:
    spec = RetrySpec(backoff=0.15, max_backoff=1.0)
    assert [backoff(spec, attempt, 1.0) for attempt in (1, 2, 3, 4, 5)] == [0.15, 0.3, 0.6, 1.0, 1.0]
    assert backoff(spec, 3, 0.5) == 0.3


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 60), st.floats(0, 60))
def test_backoff_bounds(attempt: int, random01: float, base: float, longest: float) -> None:
    wait = backoff(RetrySpec(backoff=base, max_backoff=longest), attempt, random01)
    assert 0 <= wait <= longest
    assert attempt > 1 or wait <= base


# -- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "retries", "allowed"),
    [(0, 0, True), (0, 2, True), (0, 3, False), (100, 22, True), (100, 23, False), (4, 2, True), (4, 3, False)],
)
def test_allowed(requests: int, retries: int, allowed: bool) -> None:
    assert Budget.allowed(requests, retries, RetrySpec(budget_percent=20, budget_min=3)) is allowed


def windows(slots: int) -> list[Window]:
    cells = memoryview(bytearray(8 * WINDOW_CELLS * slots)).cast("d")
    return [Window(cells[slot * WINDOW_CELLS : (slot + 1) * WINDOW_CELLS]) for slot in range(slots)]


def test_no_budget_no_retry() -> None:
    (window,) = windows(1)
    budget = Budget(RetrySpec(budget_percent=0, budget_min=0), window, [window])
    budget.add_request(NOW)
    assert not budget.take(NOW)


def test_workers_share_one_budget() -> None:
    each = windows(4)
    budgets = [Budget(RetrySpec(budget_percent=10, budget_min=0), own, each) for own in each]
    for count in range(100):
        budgets[count % 4].add_request(NOW)
    assert [budgets[count % 4].take(NOW) for count in range(12)] == [True] * 10 + [False] * 2


@pytest.mark.parametrize(
    ("age", "seen"), [(0, True), (WINDOW_SECONDS - 1, True), (WINDOW_SECONDS, False), (1e6, False)]
)
def test_what_is_older_than_the_window_is_forgotten(age: float, seen: bool) -> None:
    (window,) = windows(1)
    window.add_request(NOW)
    window.add_retry(NOW)
    assert window.totals(NOW + age) == ((1, 1) if seen else (0, 0))


@pytest.mark.parametrize("cells", [array("d", [0.0] * 29), array("q", [0] * 30)])
def test_cells_of_another_kind_are_refused(cells: array[Any]) -> None:
    with pytest.raises(ValueError, match="30 cells of float64"):
        Window(cast("memoryview[float]", memoryview(cells)))


@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=100))
def test_the_window_counts_its_seconds_exactly(events: list[tuple[float, bool]]) -> None:
    (window,) = windows(1)
    now, requests, retries = NOW, list[int](), list[int]()
    for pause, retry in events:
        now += pause
        (window.add_retry if retry else window.add_request)(now)
        (retries if retry else requests).append(int(now))
    recent = range(int(now) - WINDOW_SECONDS + 1, int(now) + 1)
    assert window.totals(now) == (sum(s in recent for s in requests), sum(s in recent for s in retries))


@given(
    events=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.floats(0, 3)), max_size=150),
    percent=st.floats(0, 100),
    least=st.integers(0, 5),
)
def test_the_budget_is_never_exceeded(events: list[tuple[int, int, float]], percent: float, least: int) -> None:
    """``events``: a worker, how many retries its request would like, and the time before it."""
    spec = replace(RetrySpec(), budget_percent=percent, budget_min=least)
    each = windows(3)
    budgets = [Budget(spec, own, each) for own in each]
    now, total, granted = NOW, 0, 0
    for worker, wanted, pause in events:
        now += pause
        budgets[worker].add_request(now)
        total += 1
        for _ in range(wanted):
            taken = budgets[worker].take(now)
            granted += taken
            requests = sum(window.totals(now)[0] for window in each)
            retries = sum(window.totals(now)[1] for window in each)
            assert not taken or retries <= percent / 100 * requests + least
    assert granted <= percent / 100 * total + least * (1 + (now - NOW) / (WINDOW_SECONDS - 1))
