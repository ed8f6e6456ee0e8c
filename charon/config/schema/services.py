"""How services and their endpoints are treated."""

from __future__ import annotations

from typing import Annotated, Final

from charon.config.schema.balancing import LoadBalancing
from charon.config.schema.breaker import CircuitBreaker
from charon.config.schema.health import HealthCheck
from charon.config.schema.limits import ServiceLimits
from charon.config.schema.retry import Retry
from charon.config.schema.section import Section, block, setting
from charon.config.schema.timeouts import ServiceTimeouts
from charon.config.schema.tls import ServiceTls
from charon.config.schema.values import Choice, StaticTarget


class Treatment(Section):
    """What can be set at the top level for all services, and for each service. Endpoints are shared by all listeners,
    so none of it belongs to a listener."""

    load_balancing: LoadBalancing = block(LoadBalancing, "Which endpoint of a service comes next.")
    circuit_breaker: CircuitBreaker = block(CircuitBreaker, "When an endpoint that fails is left alone.")
    health_check: HealthCheck = block(HealthCheck, "How Charon finds out which endpoints work.")
    retry: Retry = block(Retry, "When a request is tried again.")


NOT_IN_LISTENERS: Final = {
    key: f"endpoints are shared by all listeners; give it at the top level, for all services, or in services.NAME.{key}"
    for key in Treatment.model_fields
}


class Service(Treatment):
    """One service, under its name. Its blocks override those of the top level, key by key."""

    addresses: tuple[StaticTarget, ...] = setting(
        (),
        "Addresses (`host:port`, `http(s)://host:port`, `unix:/path`) of the service. It then needs no entry in the "
        "registry, and one there is not looked at.",
        example=["10.0.0.5:80", "10.0.0.6:80"],
    )
    limits: ServiceLimits = block(ServiceLimits, "How much the endpoints of this service are given.")
    timeouts: ServiceTimeouts = block(ServiceTimeouts, "How long Charon waits for this service.")
    tls: ServiceTls = block(ServiceTls, "TLS towards this service.")
    proxy_protocol: Annotated[str | None, *Choice("v1", "v2", none=True)] = setting(
        "none",
        "Begin connections to this service with a PROXY header of this version, which names the client. Connections "
        "are then not shared: each request has its own.",
        example="v2",
    )
