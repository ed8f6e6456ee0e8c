"""The place of one request among those that its service may have at the same time."""

from __future__ import annotations

from typing import Final

from charon.base.errors import CONNECT_TIMEOUT, REQUEST_DEADLINE, RESPONSE_TIMEOUT, Reason
from charon.shared.concurrency import ServiceConcurrency

_TOO_LATE: Final = frozenset({CONNECT_TIMEOUT, RESPONSE_TIMEOUT, REQUEST_DEADLINE})
"""What did not come in time took at least that long. How long other failures took says nothing about the load."""


class Place:
    """Held from the beginning of a try to the head of its answer. ``concurrency`` has been entered at ``now``."""

    __slots__ = ("_concurrency", "_held", "_since")

    def __init__(self, concurrency: ServiceConcurrency, now: float) -> None:
        self._concurrency = concurrency
        self._since = now
        self._held = True

    def again(self, now: float) -> None:
        """A further try begins."""
        self._since = now
        if not self._held:
            self._held = True
            self._concurrency.enter_again()

    def answered(self, now: float, *, well: bool) -> None:
        """The head of an answer is there. How long an error took says nothing: many are quick under load."""
        self.leave()
        if well:
            self._concurrency.observe(self._since, now)

    def failed(self, reason: Reason, now: float) -> None:
        """The try has failed."""
        held = self._held
        self.leave()
        if held and reason in _TOO_LATE:
            self._concurrency.observe(self._since, now)

    def leave(self) -> None:
        """Give the place back. Safe to repeat."""
        if self._held:
            self._held = False
            self._concurrency.leave()
