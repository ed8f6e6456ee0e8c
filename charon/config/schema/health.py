"""How Charon finds out which endpoints work."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.http_values import Statuses, TargetHost
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, Choice, Number, PositiveDuration, UrlPath, Whole


class HealthCheck(Section):
    """Probes of every endpoint, and what becomes of one that failed requests. An endpoint gets traffic while both its
    probes and its traffic find it well. When failed requests have set all endpoints of a service aside, all are tried.
    """

    enabled: Boolean = setting(
        True, "Probe the endpoints. Failed requests set an endpoint aside all the same: see `passive_failures`."
    )
    type: Annotated[str, *Choice("tcp", "http")] = setting("tcp", "`tcp`: connect. `http`: a GET request.")
    interval: PositiveDuration = setting(
        "5s",
        "Time between two probes of an endpoint, give or take a tenth. One that its probes find down is probed every "
        "second at least, so that its return is seen soon.",
    )
    timeout: PositiveDuration = setting("2s", "How long one probe may take.")
    path: UrlPath = setting("/", "Path that an `http` probe asks for.")
    host: TargetHost = setting(
        "none", "Host that an `http` probe asks for. `none`: the endpoint's address.", example="health.example.com"
    )
    expected_status: Statuses = setting(
        "200", "Status of a good answer to an `http` probe: a number, a range such as `200-299`, or a list of them."
    )
    healthy_threshold: Annotated[int, *Whole(1, 1000)] = setting(1, "Good probes in a row that bring an endpoint back.")
    unhealthy_threshold: Annotated[int, *Whole(1, 1000)] = setting(1, "Bad probes in a row that set an endpoint aside.")
    passive_failures: Annotated[int | None, *Whole(0, 1_000_000, none=True)] = setting(
        "none",
        "Failed requests in a row (what the circuit breaker counts) that set an endpoint aside. `0`: traffic sets "
        "none aside. `none`: as many as `circuit_breaker.failure_threshold`.",
        example=3,
    )
    cooldown: PositiveDuration = setting(
        "30s", "How long an endpoint that failed requests is set aside; it doubles each time that happens again."
    )
    max_cooldown: PositiveDuration = setting("5m", "What `cooldown` grows to. Never less than `cooldown` itself.")
    max_ejected_percent: Annotated[float, *Number(0, 100)] = setting(
        50,
        "Share of a service's endpoints, in percent, that failed requests may set aside at the same time; the first "
        "always may be. `0`: none.",
    )
