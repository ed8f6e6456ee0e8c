"""Which request goes to which service, and what is done with it on the way."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.http_values import (
    HeaderMap,
    Method,
    RedirectPath,
    RedirectStatus,
    RequestField,
    RequestFields,
    ResponseField,
    ResponseFields,
    Scheme,
    Substitution,
    TargetHost,
    source,
)
from charon.config.schema.rate_limit import RouteRateLimit
from charon.config.schema.retry import RouteRetry
from charon.config.schema.section import Section, block, setting
from charon.config.schema.tls import Access
from charon.config.schema.values import (
    Name,
    OptionalDuration,
    OptionalName,
    OptionalUrlPath,
    PathRegex,
    RouteHost,
    Whole,
)

HEAVIEST = 1_000_000
"""Largest weight of a service of a route."""


class Rewrite(Section):
    """Changes to the target of a request on its way to the service. The query stays."""

    path_prefix: OptionalUrlPath = setting(
        "none",
        "Takes the place of the matched `path_prefix`: with `path_prefix: /api` and `/v2` here, `/api/x` becomes "
        "`/v2/x`. A route without a `path_prefix` gets it in front of every path.",
        example="/v2",
    )
    host: TargetHost = setting("none", "Takes the place of the request's host.", example="internal.example.com")
    regex: PathRegex = setting(
        "none",
        "Regular expression (Python's) that is looked for in the path; each place it matches is replaced by "
        "`substitution`. Instead of `path_prefix`.",
        example="^/users/([0-9]+)$",
    )
    substitution: Substitution = setting(
        "none", "What `regex` is replaced by; `\\1` and `\\g<name>` are its groups.", example="/u/\\1"
    )


class RequestHeaders(Section):
    """Changes to header fields: `remove` first, then `set`, then `add`; names in any case, with `_` read as `-`. What
    frames a message or concerns one connection (`Content-Length`, `Transfer-Encoding`, `Connection`, `Expect` and the
    like) cannot be changed, nor what Charon writes itself: `Via`, `Forwarded`, `X-Forwarded-For`, `-Proto` and `-Host`,
    `X-Real-IP`, and `Host`, which `rewrite.host` changes."""

    set: RequestFields = setting({}, "Fields that are set, in the place of any of that name.", example={"X-Team": "a"})
    add: RequestFields = setting({}, "Fields that are added to any of that name.", example={"X-Stage": "canary"})
    remove: tuple[RequestField, ...] = setting((), "Names of fields that are taken out.", example=["X-Debug"])


class ResponseHeaders(Section):
    """Changes to header fields of an endpoint's answer: `remove` first, then `set`, then `add`; names in any case, with
    `_` read as `-`. What frames a message or concerns one connection cannot be changed."""

    set: ResponseFields = setting(
        {}, "Fields that are set, in the place of any of that name.", example={"X-Frame-Options": "DENY"}
    )
    add: ResponseFields = setting({}, "Fields that are added to any of that name.", example={"Vary": "Accept"})
    remove: tuple[ResponseField, ...] = setting((), "Names of fields that are taken out.", example=["Server"])


class Redirect(Section):
    """An answer that sends the client elsewhere. At least one of `scheme`, `host` and `path` is given."""

    status: RedirectStatus = setting(302, "Status of the answer: 301, 302, 303, 307 or 308.")
    scheme: Scheme = setting("none", "`http` or `https`. `none`: the request's own.", example="https")
    host: TargetHost = setting("none", "Host, with a port where one is wanted. `none`: the request's own.")
    path: RedirectPath = setting(
        "none",
        "Path. The request's query is kept, unless there is one here: `/new?from=old`; `/new?` has an empty one. "
        "`none`: the request's own path.",
        example="/new",
    )


class Route(Section):
    """One rule. A request takes the first rule whose every condition (`host`, `path_prefix`, `path`, `path_regex`,
    `methods`, `headers`) holds; with none, the default service. A rule has exactly one of `service`, `services` and
    `redirect`. On a `tcp` listener a rule has `sni` and `service`, and nothing else."""

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
    path: OptionalUrlPath = setting("none", "The whole path, after normalisation, without the query.", example="/login")
    path_regex: PathRegex = setting(
        "none",
        "Regular expression (Python's) that the whole path matches, after normalisation, without the query.",
        example="/users/[0-9]+",
    )
    methods: tuple[Method, ...] = setting((), "Methods. Empty: any.", example=["GET", "HEAD"])
    headers: HeaderMap = setting(
        {},
        "Header fields that the request must have, by name in any case, each with its exact value, or `*` for any "
        "value.",
        example={"X-Api-Version": "2", "X-Tenant": "*"},
    )
    services: dict[Name, Annotated[int, *Whole(0, HEAVIEST)]] = setting(
        {},
        "Services with weights: a request goes to one of them by chance, in proportion. `0`: none for now.",
        example={"api-v1": 90, "api-v2": 10},
    )
    sticky: Annotated[str | None, *source(named=("cookie", "header"))] = setting(
        "none",
        "With `services`: keeps a client with one of them. `cookie:NAME` by a cookie of Charon's own, which it sets "
        "and calls `charon-NAME`; it holds as long as its service has a weight. `header:NAME` by the value of that "
        "field; it holds as long as the weights stay. `none`, and requests without that field: each by chance.",
        example="cookie:session",
    )
    redirect: Redirect = block(Redirect, "Answer with a redirect instead of forwarding.")
    timeout: OptionalDuration = setting(
        "none",
        "`timeouts.request` of these requests. `none`: as the service or the listener has it.",
        example="30s",
    )
    retry: RouteRetry = block(RouteRetry, "When these requests are tried again.")
    rate_limit: RouteRateLimit = block(RouteRateLimit, "How many of these requests are let through.")
    rewrite: Rewrite = block(Rewrite, "Changes to the target of the request.")
    request_headers: RequestHeaders = block(RequestHeaders, "Changes to the header fields of the request.")
    response_headers: ResponseHeaders = block(ResponseHeaders, "Changes to the header fields of the answer.")
    sni: RouteHost = setting(
        "none",
        "On `tcp` and `auto` listeners without `tls`, which pass TLS through as it is: the server name that the "
        "connection's TLS begins with, exact or `*.example.com` for one or more labels before `example.com`. A "
        "connection that fits no rule, has no name or is no TLS goes to the listener's target; without one it is "
        "closed, as `no_route`.",
        example="*.example.com",
    )
    access: Access = block(Access, "Which clients may use the route, by identity, of those that may use the listener.")
