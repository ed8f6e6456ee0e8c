"""How many requests are let through."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from charon.base.route_rules import SMALLEST_RATE
from charon.base.units import quoted
from charon.config.schema.http_values import source
from charon.config.schema.section import Section, setting
from charon.config.schema.values import UrlPath, Whole, kind_of, number

_MOST = 1e9


def _rate(value: Any) -> float:
    rate = number(0, _MOST)(value)
    if 0 < rate < SMALLEST_RATE:
        raise ValueError(f"{quoted(value)} is not allowed; write 0, or a number from {SMALLEST_RATE:f} to {_MOST:g}")
    return rate


Rate = Annotated[float, *kind_of(_rate, "a number", {"type": "number", "minimum": 0, "maximum": _MOST})]


class RouteRateLimit(Section):
    """A token bucket for the requests of one route, counted by all workers together. It holds beside the one of the
    listener. Requests over it are answered with 429 `rate_limited` and `Retry-After`."""

    elsewhere: ClassVar = {
        "routes": "the limit of a route is for that route; rate_limit of a listener takes path prefixes"
    }

    requests_per_second: Rate = setting(
        0, "Requests per second that are let through in the long run, also fractions such as `0.5`. `0`: no limit."
    )
    burst_size: Annotated[int | None, *Whole(1, 1_000_000_000, none=True)] = setting(
        "none",
        "Requests that may come at once after a quiet time. `none`: `requests_per_second`, rounded up.",
        example=200,
    )
    key: Annotated[str, *source("route", "client_ip", named=("header",))] = setting(
        "route",
        "What has a bucket of its own: each `route`, each `client_ip`, or each value of `header:NAME`; requests "
        "without that field share one.",
    )


class RateLimit(RouteRateLimit):
    """A token bucket, counted by all workers together; each listener has its own. Requests over it are answered with
    429 `rate_limited` and `Retry-After`. On a `tcp` listener it counts new connections instead of requests, and those
    over it are closed at once."""

    routes: tuple[UrlPath, ...] = setting(
        (), "Path prefixes, in whole segments, that the limit applies to. Empty: all.", example=["/api", "/login"]
    )
