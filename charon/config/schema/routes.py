"""Which request goes to which service."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.rate_limit import RateLimit
from charon.config.schema.retry import Retry
from charon.config.schema.section import Section, block, setting
from charon.config.schema.values import (
    Name,
    OptionalDuration,
    OptionalName,
    OptionalUrlPath,
    Regex,
    RouteHost,
    Text,
    Whole,
)


class Rewrite(Section):
    """Changes to the target of a request on its way to the service."""

    path_prefix: OptionalUrlPath = setting("none", "Takes the place of the matched `path_prefix`.")
    host: RouteHost = setting("none", "Takes the place of the request's host.")


class HeaderChanges(Section):
    """Changes to header fields."""

    set: dict[Name, Text] = setting({}, "Fields that are set, in the place of any of that name.")
    add: dict[Name, Text] = setting({}, "Fields that are added to any of that name.")
    remove: tuple[Name, ...] = setting((), "Names of fields that are taken out.")


class Redirect(Section):
    """An answer that sends the client elsewhere."""

    status: Annotated[int, *Whole(301, 308)] = setting(302, "Status of the answer.")
    scheme: OptionalName = setting("none", "`http` or `https`, instead of the request's own.")
    host: RouteHost = setting("none", "Host, instead of the request's own.")
    path: OptionalUrlPath = setting("none", "Path, instead of the request's own.")


class Route(Section):
    """One rule. A request takes the first rule whose every condition holds; with none, the default service."""

    host: RouteHost = setting(
        "none",
        "Host of the request, exact, in any case, whatever its port. `*.example.com` matches one or more labels "
        "before `example.com`. `none`: any host.",
        example="api.example.com",
    )
    path_prefix: OptionalUrlPath = setting(
        "none",
        "Beginning of the path, in whole segments, after normalisation: `/admin` matches `/admin` and `/admin/x`, "
        "not `/administrator`. `none`: any path.",
        example="/v1",
    )
    service: OptionalName = setting("none", "Service that the request goes to.", example="api-service")
    path: OptionalUrlPath = setting("none", "The whole path.")
    path_regex: Regex = setting("none", "Regular expression that the whole path matches.")
    methods: tuple[Name, ...] = setting((), "Methods. Empty: any.")
    headers: dict[Name, Text] = setting({}, "Header fields and their values.")
    timeout: OptionalDuration = setting("none", "`timeouts.request` of these requests.")
    retry: Retry = block(Retry, "`retry` of these requests.")
    rate_limit: RateLimit = block(RateLimit, "`rate_limit` of these requests.")
    rewrite: Rewrite = block(Rewrite, "Changes to the target of the request.")
    request_headers: HeaderChanges = block(HeaderChanges, "Changes to the header fields of the request.")
    response_headers: HeaderChanges = block(HeaderChanges, "Changes to the header fields of the answer.")
    redirect: Redirect = block(Redirect, "Answer with a redirect instead of forwarding.")
    services: dict[Name, Annotated[int, *Whole(0, 1_000_000)]] = setting(
        {}, "Services with weights, instead of `service`."
    )
