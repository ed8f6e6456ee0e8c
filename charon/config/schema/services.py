"""Settings of one service."""

from __future__ import annotations

from charon.config.schema.balancing import LoadBalancing
from charon.config.schema.breaker import CircuitBreaker
from charon.config.schema.health import HealthCheck
from charon.config.schema.retry import Retry
from charon.config.schema.section import Section, block, setting
from charon.config.schema.timeouts import Timeouts
from charon.config.schema.tls import Tls
from charon.config.schema.values import StaticTarget


class Service(Section):
    """One service, under its name."""

    addresses: tuple[StaticTarget, ...] = setting(
        (),
        "Addresses (`host:port`, `http://host:port`, `unix:/path`) of the service. It then needs no entry in the "
        "registry, and one there is not looked at.",
        example=["10.0.0.5:80", "10.0.0.6:80"],
    )
    load_balancing: LoadBalancing = setting("round_robin", "As at the top level, for this service.")
    health_check: HealthCheck = block(HealthCheck, "As at the top level, for this service.")
    circuit_breaker: CircuitBreaker = block(CircuitBreaker, "As at the top level, for this service.")
    retry: Retry = block(Retry, "As at the top level, for this service.")
    timeouts: Timeouts = block(Timeouts, "As at the top level, for this service.")
    tls: Tls = block(Tls, "As at the top level, for this service.")
