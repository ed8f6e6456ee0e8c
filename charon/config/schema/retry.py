"""When a request is tried again."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from charon.base.route_rules import RETRY_CONDITIONS as CONDITIONS
from charon.base.route_rules import retry_condition
from charon.base.units import quoted
from charon.config.problems import nearest, one_of
from charon.config.schema.section import Section, block, setting
from charon.config.schema.values import Choice, Duration, Number, OptionalDuration, Size, Whole, kind_of


def _condition(value: Any) -> str:
    word = retry_condition(str(value))
    if word is not None:
        return word
    meant = nearest(str(value).strip(), CONDITIONS)
    hint = f" (did you mean {meant}?)" if meant else ""
    allowed = one_of([*CONDITIONS, "a status from 400 to 599"])
    raise ValueError(f"{quoted(value)} is not a condition{hint}; write {allowed}")


_CONDITION: Final = (
    {"enum": [*CONDITIONS, *(word.replace("-", "_") for word in CONDITIONS if "-" in word)]},
    {"type": "integer", "minimum": 400, "maximum": 599},
    {"type": "string", "pattern": "^[45][0-9]{2}$"},
)
Condition = Annotated[str, *kind_of(_condition, f"{', '.join(CONDITIONS)}, or a status", *_CONDITION)]


class RetryBudget(Section):
    """How many retries of a service there may be beside its requests themselves, so that trouble does not multiply:
    `percent` of the requests of the last ten seconds, and `min`, counted over all workers. A try whose request reached
    nobody (no connection could be opened) adds no load, so another one is made without asking the budget. A failure for
    which the budget has no room is passed on to the client."""

    percent: Annotated[float, *Number(0, 100)] = setting(
        20, "Retries per hundred requests of the last ten seconds, all workers together."
    )
    min: Annotated[int, *Whole(0, 1_000_000)] = setting(
        3, "Retries in ten seconds that are allowed on top of that, all workers together."
    )


class RouteRetry(Section):
    """Over the `retry` of the route's service, key by key; over that of the top level where there are `services`."""

    elsewhere: ClassVar = {
        "budget": "the requests of a service share one budget; give it in retry at the top level or in "
        "services.NAME.retry"
    }

    attempts: Annotated[int, *Whole(0, 10)] = setting(2, "Further tries after the first. `0`: none.")
    backoff: Duration = setting(
        "150ms",
        "Longest wait before the second try; it doubles with each, and the wait is anything up to that (full jitter). "
        "After a connection that could not be opened the next endpoint is tried at once.",
    )
    max_backoff: Duration = setting("2s", "Longest wait before any try.")
    on: tuple[Condition, ...] = setting(
        ("connect-failure", "reset"),
        "What is tried again. For any method, as nothing was sent: `connect-failure` (no connection could be opened), "
        "`refused` (of those, only where the endpoint refused it). For the methods that `methods` allows: `reset` (the "
        "connection broke before the answer began), `timeout` (no connection, or no beginning of an answer, in time), "
        "`5xx` (answers of 500 to 599), `gateway-error` (answers 502, 503 and 504), or a status such as `503`.",
    )
    methods: Annotated[str, *Choice("idempotent", "any")] = setting(
        "idempotent",
        "`idempotent`: GET, HEAD, OPTIONS, TRACE, PUT and DELETE. `any`: all methods, so that a service may see a "
        "POST twice; only allowed in `retry` of a route.",
    )
    per_try_timeout: OptionalDuration = setting("none", "How long one try may take. `none`: as long as the request.")
    max_body_bytes: Annotated[int, *Size()] = setting(
        "64KiB", "Request body that is kept to be sent again. A request of which more has been sent is not tried again."
    )


class Retry(RouteRetry):
    """Another try, at another endpoint where there is one, only where the first cannot have had an effect or repeating
    it does no harm, and never after a byte of the answer was passed on. Where every endpoint was tried, the same ones
    are tried again, but not after a connection that could not be opened."""

    elsewhere: ClassVar = {}

    budget: RetryBudget = block(RetryBudget, "Bound on retries in relation to requests.")
