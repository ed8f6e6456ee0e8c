"""One listener's part of a snapshot, compiled for the data path. A request keeps the one it started with."""

from __future__ import annotations

from charon.config.snapshot import ListenerSpec
from charon.policy.routes import RouteTable
from charon.proxy.stages import stages
from charon.wire.forwarded import TrustedPeers
from charon.wire.messages import HeadLimits


class Listener:
    """What a connection of this listener is to be done with."""

    __slots__ = (
        "access_log",
        "default_service",
        "head_limits",
        "max_body",
        "metrics_path",
        "name",
        "routes",
        "stages",
        "spec",
        "timeouts",
        "trusted",
    )

    def __init__(self, spec: ListenerSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.routes = RouteTable(spec.routes)
        self.stages = stages(spec)
        self.head_limits = HeadLimits(
            max_header_bytes=spec.limits.max_header_bytes, max_headers=spec.limits.max_headers
        )
        self.trusted = TrustedPeers(spec.trusted_proxies)
        self.timeouts = spec.timeouts
        self.default_service = spec.default_service
        self.max_body = spec.limits.max_body_bytes
        self.metrics_path = spec.metrics_path.encode("ascii") if spec.metrics_path else None
        self.access_log = spec.access_log
