"""When an endpoint that fails is left alone."""

from __future__ import annotations

import math
from typing import Annotated

from charon.base.units import quoted
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, PositiveDuration, Whole, kind_of


def _rate(value: object) -> float:
    text = str(value).strip()
    percent = text.endswith("%")
    try:
        rate = math.nan if isinstance(value, bool) else float(text.removesuffix("%").rstrip()) / (100 if percent else 1)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= 1:
        allowed = "write a share above 0 and at most 1, such as 0.5, or a percentage such as 50%"
        raise ValueError(f"{quoted(value)} is not allowed; {allowed}")
    return rate


_RATE = ({"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": "^[0-9.]+ ?%?$"})
ErrorRate = Annotated[float | None, *kind_of(_rate, "a share or a percentage", *_RATE, none=True)]


class CircuitBreaker(Section):
    """Per endpoint, for the whole of Charon: after enough failures it gets no requests for a while (503
    `circuit_open`, where there is no other endpoint), then exactly one trial. A failure is an answer of 500 or above,
    a connection that cannot be opened or breaks, or an answer that does not come in time; never what a client did."""

    enabled: Boolean = setting(True, "Have a breaker for each endpoint.")
    failure_threshold: Annotated[int, *Whole(1, 1_000_000)] = setting(
        3, "Failures in a row after which the breaker opens."
    )
    open_duration: PositiveDuration = setting(
        "20s",
        "How long an open breaker waits before it lets one trial pass; less where the probes of `health_check` saw the "
        "endpoint down and see it come back, which makes the trial due at once.",
    )
    error_rate: ErrorRate = setting(
        "none",
        "Share of failed requests, `0.5` or `50%`, at which the breaker opens as well, even when they are not in a "
        "row. `none`: only failures in a row count.",
        example="50%",
    )
    window: PositiveDuration = setting("10s", "Time over which `error_rate` is taken.")
    min_requests: Annotated[int, *Whole(1, 1_000_000)] = setting(
        20, "Requests that an endpoint must have had in `window` before `error_rate` says anything."
    )
