"""Rules as workers see them."""

from __future__ import annotations

from charon.config.compile_services import rate_limit_spec, retry_spec, service_retry
from charon.config.compile_tls import access_spec
from charon.config.schema.root import Root
from charon.config.schema.routes import RequestHeaders, ResponseHeaders, Route
from charon.config.snapshot import HeaderEdits, RateLimitSpec, RedirectSpec, RetrySpec, RewriteSpec, RouteSpec


def route_specs(root: Root, routes: tuple[Route, ...], listener: str, taken: set[str]) -> tuple[RouteSpec, ...]:
    """The rules of ``listener``. Names of rate limits in ``taken`` are not used again; it learns the new ones."""
    labels: set[str] = set()
    return tuple(_route_spec(root, route, _unused(route_name(route), labels), listener, taken) for route in routes)


def route_name(route: Route) -> str:
    """The label of a route in logs and metrics: what it matches. ``api.example.com/v1``, ``GET,HEAD /login``,
    ``~/users/[0-9]+`` for a regular expression, ``db.example.com`` for a server name, ``*`` for everything."""
    path = route.path or route.path_prefix or ""
    if route.path_regex is not None:
        path += f"~{route.path_regex}"
    where = f"{route.host or route.sni or ''}{path}" or "*"
    return f"{','.join(dict.fromkeys(route.methods))} {where}" if route.methods else where


def _unused(name: str, taken: set[str]) -> str:
    """``name``, or with a number: two rules that match alike are told apart by their labels."""
    number = 1
    while (found := name if number == 1 else f"{name}#{number}") in taken:
        number += 1
    taken.add(found)
    return found


def _route_spec(root: Root, route: Route, name: str, listener: str, taken: set[str]) -> RouteSpec:
    return RouteSpec(
        name=name,
        service=route.service,
        host=route.host,
        sni=route.sni,
        path_prefix=route.path_prefix,
        path=route.path,
        path_regex=route.path_regex,
        methods=tuple(dict.fromkeys(route.methods)),
        headers=tuple(route.headers.items()),
        services=tuple(route.services.items()),
        sticky=route.sticky,
        timeout=route.timeout,
        retry=_retry(root, route),
        rate_limit=_rate_limit(route, name, listener, taken),
        rewrite=_rewrite(route),
        redirect=_redirect(route),
        request_headers=_edits(route.request_headers),
        response_headers=_edits(route.response_headers),
        access=access_spec(route.access),
    )


def _retry(root: Root, route: Route) -> RetrySpec | None:
    if not route.retry.model_fields_set:
        return None
    return retry_spec(service_retry(root, route.service), route.retry)


def _rate_limit(route: Route, name: str, listener: str, taken: set[str]) -> RateLimitSpec | None:
    if route.rate_limit.requests_per_second == 0:
        return None
    return rate_limit_spec(_unused(f"{listener} {name}" if name in taken else name, taken), route.rate_limit)


def _rewrite(route: Route) -> RewriteSpec | None:
    spec = RewriteSpec(**route.rewrite.model_dump())
    return None if spec == RewriteSpec() else spec


def _redirect(route: Route) -> RedirectSpec | None:
    return RedirectSpec(**route.redirect.model_dump()) if "redirect" in route.model_fields_set else None


def _edits(changes: RequestHeaders | ResponseHeaders) -> HeaderEdits | None:
    edits = HeaderEdits(changes.remove, tuple(changes.set.items()), tuple(changes.add.items()))
    return None if edits == HeaderEdits() else edits
