"""How many requests are let through."""

from __future__ import annotations

from typing import Annotated, ClassVar

from charon.config.schema.http_values import source
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Number, UrlPath, Whole


class RouteRateLimit(Section):
    """A token bucket for the requests of one route, counted by all workers together. It holds beside the one of the
    listener. Requests over it are answered with 429 `rate_limited` and `Retry-After`."""

    elsewhere: ClassVar = {
        "routes": "the limit of a route is for that route; rate_limit of a listener takes path prefixes"
    }

    requests_per_second: Annotated[float, *Number(0, 1e9)] = setting(
        0, "Requests per second that are let through in the long run, also fractions such as `0.5`. `0`: no limit."
    )
    burst_size: Annotated[int | None, *Whole(1, 1_000_000_000, none=True)] = setting(
        "none",
        "Requests that may come at once after a quiet time. `none`: `requests_per_second`, rounded up.",
        example=200,
    )
    key: Annotated[str, *source("route", "client_ip", named=("header",))] = setting(
        "route", "What has a bucket of its own: each `route`, each `client_ip`, or each value of `header:NAME`."
    )


class RateLimit(RouteRateLimit):
    """A token bucket, counted by all workers together; each listener has its own. Requests over it are answered with
    429 `rate_limited` and `Retry-After`. On a `tcp` listener it counts new connections instead of requests, and those
    over it are closed at once."""

    routes: tuple[UrlPath, ...] = setting(
        (), "Path prefixes, in whole segments, that the limit applies to. Empty: all.", example=["/api", "/login"]
    )
