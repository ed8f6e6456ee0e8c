"""Which endpoint of a service comes next."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.values import Choice

LoadBalancing = Annotated[str, *Choice("round_robin", "least_request", "random", "ring_hash", "ewma")]
