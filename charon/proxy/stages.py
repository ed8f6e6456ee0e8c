"""What a request passes before it is forwarded: a list, in order, each stage with its why.

A stage is a function over the exchange that raises ExchangeFailed or returns. The list is made once per listener and
snapshot; what is not configured is not in it and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from charon.base.errors import BODY_TOO_LARGE, ExchangeFailed
from charon.config.snapshot import ListenerSpec

if TYPE_CHECKING:
    from charon.proxy.exchange import Exchange

Stage = Callable[["Exchange"], None]


def stages(spec: ListenerSpec) -> tuple[Stage, ...]:
    """The stages that ``spec`` asks for."""
    chosen: list[Stage] = []
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
