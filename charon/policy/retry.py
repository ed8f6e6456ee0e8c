"""Whether a failed try may be made again, when, and how many such there may be: pure decisions.

A try is repeated only when nothing of its answer has gone to the client, its request can be sent again, the policy
names its failure, and either no byte of it can have been acted on, or repeating it does no harm because its method is
idempotent (RFC 9110 9.2.2) or the route says so.

Condition words (``-`` and ``_`` are the same, case does not matter):

=================== ==================================================================================================
``connect-failure`` no connection: refused, unreachable, not accepted in time, or no TLS with the right peer
``refused``         only: refused
``reset``           the connection ended before any byte of an answer
``timeout``         no connection or no byte of an answer in time, that of the single try (``per_try_timeout``) included
``5xx``             the upstream answered with any status from 500 to 599
``gateway-error``   the upstream answered with 502, 503 or 504
``503``, ...        the upstream answered with this status (400 to 599)
=================== ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from charon.base.errors import (
    CONNECT_FAILED,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    RESPONSE_TIMEOUT,
    UPSTREAM_IDENTITY,
    UPSTREAM_IDLE,
    UPSTREAM_RESET,
    UPSTREAM_TLS_FAILED,
    Blame,
    Reason,
)
from charon.base.route_rules import RETRY_CONDITIONS, retry_condition

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""

_REASONS: Final[dict[str, tuple[Reason, ...]]] = {
    "connect-failure": (CONNECT_REFUSED, CONNECT_FAILED, CONNECT_TIMEOUT, UPSTREAM_TLS_FAILED, UPSTREAM_IDENTITY),
    "refused": (CONNECT_REFUSED,),
    "reset": (UPSTREAM_RESET,),
    "timeout": (CONNECT_TIMEOUT, RESPONSE_TIMEOUT, UPSTREAM_IDLE),
}

_STATUSES: Final[dict[str, Iterable[int]]] = {
    "5xx": range(500, 600),
    "gateway-error": (502, 503, 504),
}


_UNSENT: Final = frozenset({"connect-failure", "reset"})
"""What covers a connection that broke before it took anything of the request, whatever the reason."""


class RetrySpec(Protocol):
    """What is looked at of the settings; durations are seconds, ``budget_percent`` is of requests."""

    @property
    def on(self) -> tuple[str, ...]: ...

    @property
    def any_method(self) -> bool: ...

    @property
    def backoff(self) -> float: ...

    @property
    def max_backoff(self) -> float: ...

    @property
    def budget_percent(self) -> float: ...

    @property
    def budget_min(self) -> int: ...


class TryOutcome(NamedTuple):
    """How one try ended, seen from the request.

    ``reason`` is why it failed, or None where the upstream answered; ``status`` is then the answer's. ``sent`` is the
    number of request bytes that were handed to the kernel for this try, ``received`` the number of response bytes
    read. ``replayable`` says that the whole request, with its body if any, is still at hand; ``passed_on`` that a byte
    of the answer has gone to the client.
    """

    reason: Reason | None
    method: bytes
    sent: int
    received: int
    replayable: bool
    status: int = 0
    passed_on: bool = False


class RetryPolicy(NamedTuple):
    """What a :class:`RetrySpec` names, made quick to look up: reason words and statuses.

    ``unsent`` says that a failure which left the request unsent is tried again, whatever its reason.
    """

    reasons: frozenset[str]
    statuses: frozenset[int]
    unsent: bool
    any_method: bool

    @classmethod
    def compile(cls, spec: RetrySpec) -> RetryPolicy:
        """The policy of ``spec``. Raises ValueError for a word that is not a condition."""
        return cls.of(spec.on, spec.any_method)

    @classmethod
    def of(cls, on: Iterable[str], any_method: bool = False) -> RetryPolicy:
        """The policy for condition words. Raises ValueError for a word that is not one."""
        reasons: set[str] = set()
        statuses: set[int] = set()
        words = {condition(word) for word in on}
        for word in words:
            if word in _REASONS:
                reasons.update(reason.word for reason in _REASONS[word])
            elif word in _STATUSES:
                statuses.update(_STATUSES[word])
            else:
                statuses.add(int(word))
        return cls(frozenset(reasons), frozenset(statuses), bool(words & _UNSENT), any_method)


def condition(word: str) -> str:
    """The one spelling of a condition word. Raises ValueError for a word that is not one."""
    plain = retry_condition(word)
    if plain is None:
        raise ValueError(f"{word!r} is not a retry condition; write {', '.join(RETRY_CONDITIONS)} or a status")
    return plain


DEFAULT_POLICY: Final = RetryPolicy.of(("connect-failure", "reset"))
"""Connect failures and resets."""


def may_retry(outcome: TryOutcome, tries_left: int, policy: RetryPolicy = DEFAULT_POLICY) -> bool:
    """Whether to try again, on another endpoint or a new connection. The budget is asked afterwards, by the caller."""
    if tries_left <= 0 or outcome.passed_on or not outcome.replayable:
        return False
    reason = outcome.reason
    harmless = policy.any_method or outcome.method in IDEMPOTENT
    if reason is None:
        return harmless and outcome.status in policy.statuses
    if reason.blame is not Blame.UPSTREAM or outcome.received:
        return False
    if reason.unsent:
        return reason.word in policy.reasons
    if outcome.sent == 0:
        return policy.unsent or reason.word in policy.reasons
    return harmless and reason.word in policy.reasons


def backoff(spec: RetrySpec, attempt: int, random01: float) -> float:
    """Seconds to wait before the ``attempt``-th retry (from 1); ``random01`` is uniform in [0, 1).

    Exponential with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): anything from
    nothing to ``backoff`` doubled with each retry, at most ``max_backoff``.
    """
    return random01 * min(spec.max_backoff, spec.backoff * 2.0 ** min(attempt - 1, 64))


# -- the budget: how many retries there may be beside the requests ------------------------------------------------

WINDOW_SECONDS: Final = 10
"""Requests and retries are counted over this many seconds, the present one included."""

WINDOW_CELLS: Final = 3 * WINDOW_SECONDS
"""Numbers that a :class:`Window` needs."""


class Window:
    """Requests and retries of the last seconds, in :data:`WINDOW_CELLS` cells of float64 that belong to one writer.

    A ring of seconds, each (second, requests, retries). Others may read the cells at any time without a lock: a
    second's counts are cleared before its label changes, so that at worst they miss what is being counted just now.
    Zeroed cells are an empty window.
    """

    __slots__ = ("_cells",)

    def __init__(self, cells: memoryview[float]) -> None:
        """``cells`` has format ``d``. Raises ValueError when it is of another format or length."""
        if cells.format != "d" or len(cells) != WINDOW_CELLS:
            raise ValueError(f"a window is {WINDOW_CELLS} cells of float64")
        self._cells = cells

    def add_request(self, now: float) -> None:
        """Count a request: once, however many tries it takes."""
        # As _bucket, written out: it is run for every request.
        second = int(now)
        index = second % WINDOW_SECONDS * 3
        cells = self._cells
        if cells[index] != second:
            cells[index + 1] = cells[index + 2] = 0.0
            cells[index] = second
        cells[index + 1] += 1.0

    def add_retry(self, now: float) -> None:
        """Count a further try."""
        self._cells[self._bucket(now) + 2] += 1.0

    def totals(self, now: float) -> tuple[int, int]:
        """Requests and retries of the last :data:`WINDOW_SECONDS`."""
        oldest = int(now) - WINDOW_SECONDS
        cells = list(self._cells)  # not tolist(): typeshed has it give integers
        requests = retries = 0.0
        for index in range(0, WINDOW_CELLS, 3):
            if cells[index] > oldest:
                requests += cells[index + 1]
                retries += cells[index + 2]
        return int(requests), int(retries)

    def _bucket(self, now: float) -> int:
        second = int(now)
        index = second % WINDOW_SECONDS * 3
        cells = self._cells
        if cells[index] != second:
            cells[index + 1] = cells[index + 2] = 0.0
            cells[index] = second
        return index


class Budget:
    """How many retries a service may cause, so that its trouble does not multiply: a share of its requests, and a few.

    ``own`` are this worker's counts, ``windows`` those of all workers (own included). Without a lock around
    :meth:`take`, workers that decide at the very same moment may together go over by one each.
    """

    __slots__ = ("_own", "_spec", "_windows", "add_request")

    def __init__(self, spec: RetrySpec, own: Window, windows: Sequence[Window]) -> None:
        self._spec = spec
        self._own = own
        self._windows = windows
        self.add_request = own.add_request

    def take(self, now: float) -> bool:
        """Whether a retry may be made now; it is counted if so."""
        requests = retries = 0
        for window in self._windows:
            more_requests, more_retries = window.totals(now)
            requests += more_requests
            retries += more_retries
        if not self.allowed(requests, retries, self._spec):
            return False
        self._own.add_retry(now)
        return True

    @staticmethod
    def allowed(requests: int, retries: int, spec: RetrySpec) -> bool:
        """Whether one more retry fits, after ``retries`` beside ``requests`` within :data:`WINDOW_SECONDS`."""
        return retries + 1 <= spec.budget_percent / 100 * requests + spec.budget_min
