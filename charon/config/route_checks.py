"""Mistakes in a rule that no single key of it shows. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from charon.base.route_rules import substitution_problem
from charon.config.document import KeyPath
from charon.config.finding import Finding
from charon.config.schema.root import Root
from charon.config.schema.routes import Rewrite, Route

TARGETS = ("service", "services", "redirect")
NOT_FOR_REDIRECTS = ("timeout", "retry", "rewrite", "request_headers")


def route_findings(root: Root) -> Iterator[Finding]:
    """Every mistake in the rules of the top level and of the listeners, each where it is written."""
    lists: list[tuple[KeyPath, tuple[Route, ...]]] = [(("routes",), root.routes)]
    lists += [(("listeners", index, "routes"), listener.routes) for index, listener in enumerate(root.listeners)]
    for path, routes in lists:
        for number, route in enumerate(routes):
            here = (*path, number)
            if route.sni is not None:
                yield from _sni(here, route)
                continue
            yield from _target(here, route)
            yield from _redirect(here, route)
            yield from _rewrite(here, route)


def _sni(here: KeyPath, route: Route) -> Iterator[Finding]:
    if route.service is None:
        yield Finding(here, "the route has no service", ((*here, "service"),))
    for key in Route.model_fields:
        if key not in ("sni", "service") and _is_given(route, key):
            text = "a route by sni sees nothing but the server name; it has a service and nothing else"
            yield Finding((*here, key), text, ((*here, "sni"),))


def _target(here: KeyPath, route: Route) -> Iterator[Finding]:
    paths = tuple((*here, key) for key in TARGETS)
    given = [key for key in TARGETS if _is_given(route, key)]
    if not given:
        yield Finding(here, "the route has no service", paths)
    for key in given[1:]:
        text = f"not together with {given[0]}; a route has one of service, services and redirect"
        yield Finding((*here, key), text)
    if route.services and not any(route.services.values()):
        path = (*here, "services")
        yield Finding(path, "all weights are 0; give at least one service a weight", (path,))
    if route.sticky is not None and not route.services:
        yield Finding((*here, "sticky"), "there is nothing to choose from without services", paths)


def _is_given(route: Route, key: str) -> bool:
    return key in route.model_fields_set and getattr(route, key) not in (None, {})


def _redirect(here: KeyPath, route: Route) -> Iterator[Finding]:
    if not _is_given(route, "redirect"):
        return
    path = (*here, "redirect")
    if route.redirect.scheme is None and route.redirect.host is None and route.redirect.path is None:
        text = "the client would be sent where it came from; give scheme, host or path"
        yield Finding(path, text, (path,))
    for key in NOT_FOR_REDIRECTS:
        if _is_given(route, key):
            yield Finding((*here, key), "it has no effect on a route with a redirect", (path,))


def _rewrite(here: KeyPath, route: Route) -> Iterator[Finding]:
    path = (*here, "rewrite")
    rewrite = route.rewrite
    if rewrite.path_prefix is not None and (route.path is not None or route.path_regex is not None):
        text = "path and path_regex leave no prefix to replace; use regex and substitution"
        yield Finding((*path, "path_prefix"), text)
    if rewrite.path_prefix is not None and rewrite.regex is not None:
        yield Finding((*path, "regex"), "not together with path_prefix; give one of them")
    if rewrite.regex is not None and rewrite.substitution is None:
        text = "it needs a substitution"
        yield Finding((*path, "regex"), text, ((*path, "substitution"),))
    if rewrite.substitution is not None and rewrite.regex is None:
        yield Finding((*path, "substitution"), "it needs a regex", ((*path, "regex"),))
    problem = _substitution_problem(rewrite)
    if problem is not None:
        yield Finding((*path, "substitution"), f"it does not go with the regex: {problem}")


def _substitution_problem(rewrite: Rewrite) -> str | None:
    if rewrite.regex is None or rewrite.substitution is None:
        return None
    return substitution_problem(rewrite.regex, rewrite.substitution)
