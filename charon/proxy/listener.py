"""One listener's part of a snapshot, compiled for the data path. A request keeps the one it started with."""

from __future__ import annotations

from dataclasses import replace

from charon.config.snapshot import ListenerSpec, RouteSpec, TimeoutOverrides, Timeouts
from charon.net.tls import ServerTls
from charon.policy.access import Access
from charon.policy.routes import RouteTable
from charon.proxy.route import Route
from charon.proxy.stages import stages
from charon.shared.limiter import Buckets, Limiter
from charon.wire.forwarded import TrustedPeers
from charon.wire.messages import HeadLimits


class Listener:
    """What a connection of this listener is to be done with. ``default`` is the rule where no other matches.

    ``routes`` are those of HTTP requests, ``server_names`` those of TLS that passes through. ``unannounced``: there is
    nothing to find out about a connection before its own first byte.
    """

    __slots__ = (
        "_timeouts",
        "access",
        "access_log",
        "default",
        "default_service",
        "direction",
        "head_limits",
        "keeps_client",
        "limiter",
        "max_body",
        "max_per_client",
        "min_body_rate",
        "metrics_path",
        "name",
        "opaque_ports",
        "passthrough",
        "proxies",
        "request_id",
        "routes",
        "server_names",
        "spec",
        "stages",
        "timeouts",
        "tls",
        "transparent",
        "trusted",
        "unannounced",
    )

    def __init__(self, spec: ListenerSpec, buckets: Buckets, tls: ServerTls | None = None) -> None:
        self.spec = spec
        self.tls = tls
        self.access = Access(spec.access) if spec.access is not None else None
        self.name = spec.name
        self.routes = RouteTable([Route(route, buckets) for route in spec.routes if route.sni is None])
        self.server_names = RouteTable([Route(route, buckets) for route in spec.routes if route.sni is not None])
        self.default_service = spec.default_service
        self.default = Route(RouteSpec("", spec.default_service), buckets)
        self.head_limits = HeadLimits(
            max_header_bytes=spec.limits.max_header_bytes, max_headers=spec.limits.max_headers
        )
        self.trusted = TrustedPeers(spec.trusted_proxies)
        self.proxies = TrustedPeers(spec.accept_proxy)
        self.direction = spec.direction
        self.passthrough = spec.passthrough
        self.transparent = spec.transparent
        self.keeps_client = spec.keeps_client
        self.opaque_ports = frozenset(port for first, last in spec.opaque_ports for port in range(first, last + 1))
        self.unannounced = spec.direction is None and not spec.accept_proxy
        self.timeouts = spec.timeouts
        self.max_body = spec.limits.max_body_bytes
        self.min_body_rate = spec.limits.min_body_rate
        self.max_per_client = spec.max_connections_per_client
        self.metrics_path = spec.metrics_path.encode("ascii") if spec.metrics_path else None
        self.access_log = spec.access_log
        self.request_id = spec.request_id
        self.limiter = Limiter(spec.rate_limit, buckets) if spec.rate_limit is not None else None
        self.stages = stages(spec, self.limiter)
        self._timeouts: dict[tuple[TimeoutOverrides | None, float | None], Timeouts] = {}

    def timeouts_for(self, overrides: TimeoutOverrides | None, of_route: float | None) -> Timeouts:
        """The listener's timeouts, over them a service's, over them a route's ``timeout``; made once for each."""
        if overrides is None and of_route is None:
            return self.timeouts
        found = self._timeouts.get((overrides, of_route))
        if found is None:
            found = self.timeouts
            if overrides is not None:
                own = found
                found = replace(
                    own,
                    connect=own.connect if overrides.connect is None else overrides.connect,
                    response_headers=(
                        own.response_headers if overrides.response_headers is None else overrides.response_headers
                    ),
                    request=own.request if overrides.request is None else overrides.request,
                    idle=own.idle if overrides.idle is None else overrides.idle,
                )
            if of_route is not None:
                found = replace(found, request=of_route)
            self._timeouts[overrides, of_route] = found
        return found
