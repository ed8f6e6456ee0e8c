"""When a request is tried again."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, block, setting
from charon.config.schema.values import Choice, Duration, Number, OptionalDuration, Size, Whole

RetryOn = Annotated[str, *Choice("connect_failure", "reset", "timeout", "5xx", "502", "503", "504")]


class RetryBudget(Section):
    """How many retries there may be beside the requests themselves, so that trouble does not multiply."""

    percent: Annotated[float, *Number(0, 100)] = setting(20, "Retries per hundred requests of the last ten seconds.")
    min_per_second: Annotated[float, *Number(0, 1e6)] = setting(3, "Retries that are always allowed, per second.")


class Retry(Section):
    """Another try at another endpoint, only where the first cannot have had an effect."""

    attempts: Annotated[int, *Whole(0, 10)] = setting(2, "Further tries after the first. `0`: none.")
    backoff: Duration = setting("150ms", "Longest wait before the second try; it doubles with each, with full jitter.")
    max_backoff: Duration = setting("2s", "Longest wait before any try.")
    on: tuple[RetryOn, ...] = setting(
        ("connect_failure", "reset"),
        "What is tried again: `connect_failure` (any method), and for idempotent methods `reset`, `timeout`, `5xx`, "
        "`502`, `503`, `504`.",
    )
    per_try_timeout: OptionalDuration = setting("none", "How long one try may take. `none`: as long as the request.")
    budget: RetryBudget = block(RetryBudget, "Bound on retries in relation to requests.")
    max_body_bytes: Annotated[int, *Size()] = setting(
        "64KiB", "Request body that is kept to be sent again. A request with a larger one is tried once."
    )
