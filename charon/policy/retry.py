"""Whether a failed try may be made again: one pure decision.

A try is repeated only when nothing of its answer has gone to the client, its body can be sent again, and either no
byte of it can have been acted on, or repeating it does no harm because its method is idempotent (RFC 9110 9.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from charon.base.errors import UPSTREAM_RESET, Blame, Reason

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""


@dataclass(frozen=True, slots=True)
class TryOutcome:
    """How one try failed, seen from the request.

    ``sent`` is the number of request bytes that were handed to the kernel for this try, ``received`` the number of
    response bytes read; ``replayable`` says that the whole body, if any, is still at hand.
    """

    reason: Reason
    method: bytes
    sent: int
    received: int
    replayable: bool


def may_retry(outcome: TryOutcome, tries_left: int) -> bool:
    """Whether to try again, on another endpoint or a new connection."""
    if tries_left <= 0 or outcome.reason.blame is not Blame.UPSTREAM or not outcome.replayable:
        return False
    if outcome.reason.unsent or outcome.sent == 0:
        return True
    return outcome.reason is UPSTREAM_RESET and outcome.received == 0 and outcome.method in IDEMPOTENT
