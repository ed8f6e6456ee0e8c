"""How Charon finds out which endpoints work."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Choice, PositiveDuration, UrlPath, Whole


class HealthCheck(Section):
    """Probes of every endpoint, and what becomes of one that failed requests."""

    type: Annotated[str, *Choice("tcp", "http")] = setting("tcp", "`tcp`: connect. `http`: a GET request.")
    interval: PositiveDuration = setting("5s", "Time between two probes of an endpoint; it is spread a little.")
    timeout: PositiveDuration = setting("2s", "How long one probe may take.")
    path: UrlPath = setting("/", "Path that an `http` probe asks for.")
    expected_status: Annotated[int, *Whole(100, 599)] = setting(200, "Status of a good answer to an `http` probe.")
    healthy_threshold: Annotated[int, *Whole(1, 1000)] = setting(1, "Good probes in a row that bring an endpoint back.")
    unhealthy_threshold: Annotated[int, *Whole(1, 1000)] = setting(1, "Bad probes in a row that set an endpoint aside.")
    cooldown: PositiveDuration = setting("30s", "How long an endpoint that failed requests is set aside.")
