"""How fast somebody must send, on average: a pure decision over what was sent and how long it was waited for."""

from __future__ import annotations

from typing import Final

GRACE: Final = 10.0
"""Seconds of waiting that are free: connections begin slowly, and lose a packet now and then."""


def patience(rate: float, taken: int, waited: float) -> float:
    """Seconds that may still be waited for the next byte, so that the average stays at ``rate`` bytes a second.

    ``taken`` bytes have come in ``waited`` seconds of waiting. What was sent faster is to the sender's credit. At most
    0 when the time is up.
    """
    return GRACE + taken / rate - waited
