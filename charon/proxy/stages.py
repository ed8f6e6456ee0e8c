"""What a request passes before it is forwarded: a list, in order, each stage with its why.

A stage is a function over the exchange that raises ExchangeFailed or returns. The list is made once per listener and
snapshot; what is not configured is not in it and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from charon.base.errors import BODY_TOO_LARGE, RATE_LIMITED, ExchangeFailed
from charon.config.snapshot import ListenerSpec
from charon.policy.ratelimit import Decision, ratelimit_fields
from charon.shared.limiter import Limiter

if TYPE_CHECKING:
    from charon.proxy.exchange import Exchange

Stage = Callable[["Exchange"], None]


def stages(spec: ListenerSpec, limiter: Limiter | None) -> tuple[Stage, ...]:
    """The stages that ``spec`` asks for."""
    chosen: list[Stage] = []
    if limiter is not None:
        # First: what is over the limit should cost as little as possible.
        chosen.append(_rate_limit(limiter))
    if spec.limits.max_body_bytes is not None:
        # Before an endpoint is chosen: a body that is too large by its own word costs no upstream anything.
        chosen.append(_body_limit(spec.limits.max_body_bytes))
    return tuple(chosen)


def _body_limit(limit: int) -> Stage:
    def check(exchange: Exchange) -> None:
        head = exchange.head
        if head is not None and head.body > limit:
            raise ExchangeFailed(BODY_TOO_LARGE, f"Content-Length over {limit}")

    return check


def _rate_limit(limiter: Limiter) -> Stage:
    if not limiter.spec.prefixes:
        return partial(limit_rate, limiter)
    prefixes = tuple(prefix.encode("ascii").rstrip(b"/") + b"/" for prefix in limiter.spec.prefixes)

    def check(exchange: Exchange) -> None:
        head = exchange.head
        if head is not None and (head.path + b"/").startswith(prefixes):
            limit_rate(limiter, exchange)

    return check


def limit_rate(limiter: Limiter, exchange: Exchange) -> None:
    """Take one request from the bucket that ``exchange`` belongs to. Raises ExchangeFailed (429) when it is empty."""
    spec = limiter.spec
    if spec.key == "route":
        key = exchange.route.encode()
    elif spec.key == "client_ip":
        key = exchange.client.encode()
    else:
        key = _header(exchange, spec.key.partition(":")[2].lower().encode())
    decision = limiter.take(key, exchange.start)
    if not decision.allowed:
        exchange.limited_by = exchange.route or spec.name
        raise ExchangeFailed(RATE_LIMITED, spec.name, decision.retry_after, _fields(limiter, decision))


def _header(exchange: Exchange, wanted: bytes) -> bytes:
    """The value that a request is counted under; requests without the field share one bucket."""
    head = exchange.head
    if head is not None:
        for name, value in head.fields:
            if name.lower() == wanted:
                return value
    return b""


def _fields(limiter: Limiter, decision: Decision) -> bytes:
    fields = ratelimit_fields(limiter.spec.name, limiter.rate, limiter.burst, decision.remaining, decision.reset)
    return b"".join(f"{name}: {value}\r\n".encode("ascii") for name, value in fields)


def whole_seconds(seconds: float) -> int:
    """For ``Retry-After``, which knows whole seconds only (RFC 9110 section 10.2.3): never too early, at least 1."""
    return max(1, ceil(seconds))
