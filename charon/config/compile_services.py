"""How services are treated, as plain values: the settings of the top level, and those of a service over them."""

from __future__ import annotations

import math

from charon.config.schema.breaker import CircuitBreaker
from charon.config.schema.health import HealthCheck
from charon.config.schema.limits import ServiceLimits
from charon.config.schema.rate_limit import RouteRateLimit
from charon.config.schema.retry import Retry, RouteRetry
from charon.config.schema.root import Root
from charon.config.schema.services import Service
from charon.config.snapshot import (
    BalanceSpec,
    BreakerSpec,
    BulkheadSpec,
    ConcurrencySpec,
    HealthCheckSpec,
    PassiveSpec,
    RateLimitSpec,
    RetrySpec,
    ServiceSpec,
    TimeoutOverrides,
)

MAX_PENDING = 100
"""``limits.max_pending`` where only ``max_requests_per_endpoint`` is given."""


def service_spec(root: Root, name: str = "") -> ServiceSpec:
    """How the service ``name`` is treated, without its endpoints; also one that has no settings of its own."""
    service = root.services.get(name) or Service()
    balance = root.load_balancing.overridden_by(service.load_balancing)
    breaker = root.circuit_breaker.overridden_by(service.circuit_breaker)
    health = root.health_check.overridden_by(service.health_check)
    shared: ServiceLimits = root.limits
    limits = shared.overridden_by(service.limits)
    return ServiceSpec(
        name=name,
        endpoints=(),
        balance=BalanceSpec(balance.algorithm, balance.hash_on, balance.slow_start),
        breaker=_breaker(breaker),
        health_check=_health_check(health),
        passive=_passive(health, breaker),
        retry=retry_spec(service_retry(root, name)),
        bulkhead=_bulkhead(limits),
        concurrency=_concurrency(limits),
        timeouts=_timeouts(service),
        proxy_header={None: 0, "v1": 1, "v2": 2}[service.proxy_protocol],
    )


def service_retry(root: Root, name: str | None) -> Retry:
    """``retry`` of the service ``name``; None: of the top level."""
    service = None if name is None else root.services.get(name)
    return root.retry if service is None else root.retry.overridden_by(service.retry)


def retry_spec(retry: Retry, changes: RouteRetry | None = None) -> RetrySpec:
    """``retry`` of a service, with the ``changes`` of a route."""
    shared: RouteRetry = retry
    used = shared if changes is None else shared.overridden_by(changes)
    return RetrySpec(
        attempts=used.attempts,
        backoff=used.backoff,
        max_backoff=used.max_backoff,
        on=tuple(dict.fromkeys(used.on)),
        per_try_timeout=used.per_try_timeout,
        budget_percent=retry.budget.percent,
        budget_min=retry.budget.min,
        max_body_bytes=used.max_body_bytes,
        any_method=used.methods == "any",
    )


def rate_limit_spec(name: str, limit: RouteRateLimit, prefixes: tuple[str, ...] = ()) -> RateLimitSpec | None:
    """``limit`` under ``name``; None when it is off."""
    rate = limit.requests_per_second
    if rate == 0:
        return None
    burst = limit.burst_size or max(1, math.ceil(rate))
    return RateLimitSpec(name, rate, burst, limit.key, tuple(dict.fromkeys(prefixes)))


def _breaker(breaker: CircuitBreaker) -> BreakerSpec | None:
    if not breaker.enabled:
        return None
    return BreakerSpec(**breaker.model_dump(exclude={"enabled"}))


def _health_check(health: HealthCheck) -> HealthCheckSpec | None:
    if not health.enabled:
        return None
    passive = {"enabled", "passive_failures", "cooldown", "max_cooldown", "max_ejected_percent"}
    return HealthCheckSpec(**health.model_dump(exclude=passive))


def _passive(health: HealthCheck, breaker: CircuitBreaker) -> PassiveSpec | None:
    failures = breaker.failure_threshold if health.passive_failures is None else health.passive_failures
    if failures == 0:
        return None
    return PassiveSpec(
        failures=failures,
        cooldown=health.cooldown,
        max_cooldown=max(health.cooldown, health.max_cooldown),
        max_ejected_percent=health.max_ejected_percent,
    )


def _bulkhead(limits: ServiceLimits) -> BulkheadSpec | None:
    if limits.max_requests_per_endpoint is None:
        return None
    return BulkheadSpec(
        max_requests_per_endpoint=limits.max_requests_per_endpoint,
        max_pending=MAX_PENDING if limits.max_pending is None else limits.max_pending,
        pending_timeout=limits.pending_timeout,
    )


def _concurrency(limits: ServiceLimits) -> ConcurrencySpec | None:
    adaptive = limits.adaptive_concurrency
    return ConcurrencySpec(**adaptive.model_dump(exclude={"enabled"})) if adaptive.enabled else None


def _timeouts(service: Service) -> TimeoutOverrides | None:
    given = TimeoutOverrides(**service.timeouts.model_dump())
    return None if given == TimeoutOverrides() else given
