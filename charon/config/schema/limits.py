"""How much one listener takes on."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Size, Whole


class Limits(Section):
    """Bounds of one listener. What is over them is refused; nothing is cut short in silence."""

    max_connections: Annotated[int, *Whole(1, 10_000_000)] = setting(
        10000, "Open client connections, shared evenly among the workers. Further ones wait in the kernel's queue."
    )
    max_header_bytes: Annotated[int, *Size(1024, 16 * 1024**2)] = setting(
        "64KiB", "Size of the head of a request or an answer. Over it: 431 (an answer: 502)."
    )
    max_headers: Annotated[int, *Whole(1, 100_000)] = setting(
        128, "Number of header fields of a request or an answer. Over it: 431 (an answer: 502)."
    )
    max_body_bytes: Annotated[int | None, *Size(1, none=True)] = setting(
        "none", "Size of the body of a request. Over it: 413. `none`: no limit."
    )
    max_requests_per_endpoint: Annotated[int | None, *Whole(1, 10_000_000, none=True)] = setting(
        "none",
        "Requests that one endpoint is given at the same time, per worker. Over it another endpoint is taken; when "
        "there is none, 503 `overloaded`. `none`: no limit.",
    )
