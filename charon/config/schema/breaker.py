"""When an endpoint that fails is left alone."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, setting
from charon.config.schema.values import PositiveDuration, Whole


class CircuitBreaker(Section):
    """Per endpoint: after enough failures in a row it gets no requests for a while, then one trial."""

    failure_threshold: Annotated[int, *Whole(1, 1_000_000)] = setting(
        3, "Failures in a row after which the breaker opens."
    )
    open_duration: PositiveDuration = setting("20s", "How long an open breaker waits before it lets one trial pass.")
