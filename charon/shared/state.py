"""What all workers know of one endpoint: its row in the shared table.

Word 0 of a row is 0 while there is nothing to say: the endpoint is up, its breaker closed, no failure counted, not set
aside. That one read is all that a healthy endpoint costs a request. Everything else is changed under the table's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from charon.config.snapshot import BreakerSpec, PassiveSpec
from charon.policy import breaker, health
from charon.policy.breaker import Admission, Breaker, State
from charon.policy.health import Passive
from charon.shared.table import ROW_WORDS, SharedTable

_SOMETHING: Final = 0
_DOWN: Final = 1
_BREAKER: Final = 2
_PASSIVE: Final = _BREAKER + breaker.WORDS
_EJECTED_UNTIL: Final = _PASSIVE + 1
_RETURNED: Final = _PASSIVE + health.PASSIVE_WORDS

OnChange = Callable[[str], None]
"""Told once, by whichever process made it happen: ``open``, ``half_open``, ``closed``, ``ejected``, ``returned``."""

_BREAKER_WORDS: Final = {State.CLOSED: "closed", State.OPEN: "open", State.HALF_OPEN: "half_open"}


class EndpointState:
    """One endpoint's row, as one worker (or the supervisor, with ``holder`` 0) works with it."""

    __slots__ = ("_base", "_breaker", "_holder", "_lock", "_on_change", "_passive", "_words", "peers", "row")

    def __init__(
        self,
        table: SharedTable,
        row: int,
        holder: int,
        breaker_spec: BreakerSpec | None,
        passive_spec: PassiveSpec | None,
        on_change: OnChange,
    ) -> None:
        """``holder`` is the worker's slot + 1: whose a trial is, should the worker die."""
        self._words = table.words
        self._lock = table.endpoints
        self._base = table.row(row)
        self.row = table.words[self._base : self._base + ROW_WORDS]
        self._holder = holder
        self._breaker = breaker_spec
        self._passive = passive_spec
        self._on_change = on_change
        self.peers: Sequence[EndpointState] = ()

    def __repr__(self) -> str:
        return f"<EndpointState {self.breaker_state()} down={self.is_down()} {self._read_passive()}>"

    def follow(self, breaker_spec: BreakerSpec | None, passive_spec: PassiveSpec | None) -> None:
        """Take over changed settings; what was counted stays."""
        self._breaker = breaker_spec
        self._passive = passive_spec

    # -- before a request ---------------------------------------------------------------------------------------

    def plain(self) -> bool:
        """Whether there is nothing to say of the endpoint, and a good answer need not be counted."""
        return not self._words[self._base] and (self._breaker is None or self._breaker.error_rate is None)

    def usable(self, now: float, *, ejected_too: bool = False) -> bool:
        """Whether a request may be sent now; ``ejected_too``: also if traffic has set the endpoint aside."""
        words = self._words
        base = self._base
        if not words[base]:
            return True
        if words[base + _DOWN]:
            return False
        if words[base + _BREAKER] and self.breaker_open(now):
            return False
        return ejected_too or self._passive is None or now >= words[base + _EJECTED_UNTIL]

    def admit(self, now: float) -> Admission:
        """Let one request pass, as the trial where the breaker is due for one. The answer can still be REFUSED."""
        spec = self._breaker
        if not self._words[self._base] or spec is None or not self._words[self._base + _BREAKER]:
            return Admission.PASS
        with self._lock:
            before = self._read_breaker()
            after, admission = breaker.admit(before, spec, now, self._holder)
            self._write_breaker(before, after)
        self._tell(before, after)
        return admission

    def breaker_open(self, now: float) -> bool:
        """Whether the breaker keeps requests away now."""
        spec = self._breaker
        return spec is not None and not breaker.would_admit(self._read_breaker(), spec, now)

    def retry_after(self, now: float) -> float:
        """Seconds until an open breaker lets a trial pass."""
        return breaker.retry_after(self._read_breaker(), self._breaker, now) if self._breaker is not None else 0.0

    # -- after a request ----------------------------------------------------------------------------------------

    def success(self, now: float, began: float, *, trial: bool) -> None:
        """A request that began at ``began`` was answered well."""
        if self.plain() and not trial:
            return
        spec = self._breaker
        with self._lock:
            before, passive_before = self._read_breaker(), self._read_passive()
            after = before if spec is None else breaker.success(before, spec, now, trial, began)
            passive = health.success(passive_before, now, inf if trial else began)
            self._write(before, after, passive_before, passive, now)
        self._tell(before, after)
        if now < passive_before.ejected_until and not passive.ejected_until:
            self._on_change("returned")

    def failure(self, now: float, began: float, *, trial: bool) -> None:
        """A request that began at ``began`` failed by the endpoint's fault."""
        spec, passive_spec = self._breaker, self._passive
        if spec is None and passive_spec is None:
            return
        with self._lock:
            before, passive_before = self._read_breaker(), self._read_passive()
            after = before if spec is None else breaker.failure(before, spec, now, trial, began)
            passive = passive_before
            if passive_spec is not None:
                ejected = sum(1 for peer in self.peers if peer is not self and peer.is_ejected(now))
                passive = health.failure(passive_before, passive_spec, now, ejected, len(self.peers), began)
            self._write(before, after, passive_before, passive, now)
        self._tell(before, after)
        if passive.ejected_until > max(passive_before.ejected_until, now):
            self._on_change("ejected")

    def release(self) -> None:
        """The trial ended without evidence."""
        self.release_holder(self._holder)

    # -- the supervisor's part ----------------------------------------------------------------------------------

    def release_holder(self, holder: int) -> None:
        """The worker ``holder`` has died, or its trial ended without evidence: the next request is the trial."""
        with self._lock:
            before = self._read_breaker()
            self._write_breaker(before, breaker.release(before, holder))

    def joined(self, now: float) -> None:
        """The endpoint is new among others, and begins as one that has come back does."""
        self._words[self._base + _RETURNED] = now

    def set_down(self, down: bool, now: float) -> None:
        """What the probes say."""
        with self._lock:
            words = self._words
            base = self._base
            if words[base + _DOWN] and not down:
                words[base + _RETURNED] = now
                self._due(now)
            words[base + _DOWN] = 1.0 if down else 0.0
            self._note(self._read_breaker(), self._read_passive(), now)

    def _due(self, now: float) -> None:
        """The endpoint is reachable again: an open breaker need not wait any longer before its one trial."""
        spec = self._breaker
        b = self._read_breaker()
        if spec is not None and b.state == State.OPEN:
            self._write_breaker(b, b._replace(changed_at=min(b.changed_at, now - spec.open_duration)))

    # -- reading ------------------------------------------------------------------------------------------------

    def is_down(self) -> bool:
        """Whether the probes say that it does not work."""
        return bool(self._words[self._base + _DOWN])

    def is_ejected(self, now: float) -> bool:
        """Whether traffic has set it aside."""
        return self._passive is not None and now < self._words[self._base + _EJECTED_UNTIL]

    def breaker_state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        return _BREAKER_WORDS[State(int(self._words[self._base + _BREAKER]))]

    def returned_at(self, now: float) -> float:
        """When the endpoint last came back from being down, open or set aside; 0 for never."""
        until = self._words[self._base + _EJECTED_UNTIL]
        return max(self._words[self._base + _RETURNED], until if until <= now else 0.0)

    def _read_breaker(self) -> Breaker:
        first = self._base + _BREAKER
        return breaker.of_words(self._words[first : first + breaker.WORDS])

    def _read_passive(self) -> Passive:
        first = self._base + _PASSIVE
        return health.of_words(self._words[first : first + health.PASSIVE_WORDS])

    # -- writing, all of it under the lock ----------------------------------------------------------------------

    def _write(self, before: Breaker, after: Breaker, passive_before: Passive, passive: Passive, now: float) -> None:
        if passive is not passive_before:
            for offset, value in enumerate(passive):
                self._words[self._base + _PASSIVE + offset] = value
        if before.state != State.CLOSED and after.state == State.CLOSED:
            self._words[self._base + _RETURNED] = now
        self._write_breaker(before, after)
        self._note(after, passive, now)

    def _write_breaker(self, before: Breaker, after: Breaker) -> None:
        if after is not before:
            for offset, value in enumerate(after):
                self._words[self._base + _BREAKER + offset] = value

    def _note(self, breaker_now: Breaker, passive: Passive, now: float) -> None:
        base = self._base
        something = (
            self._words[base + _DOWN]
            or breaker_now.state
            or breaker_now.failures
            or passive.failures
            or now < passive.ejected_until
        )
        self._words[base + _SOMETHING] = 1.0 if something else 0.0

    def _tell(self, before: Breaker, after: Breaker) -> None:
        if after.state != before.state:
            self._on_change(_BREAKER_WORDS[State(int(after.state))])
