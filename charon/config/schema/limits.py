"""How much is taken on: by a listener, and by the endpoints of a service."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from charon.config.schema.section import Section, setting
from charon.config.schema.values import PositiveDuration, Size, Whole

_OF_SERVICES: Final = (
    "endpoints are shared by all listeners; give it in limits at the top level, for all services, or in "
    "services.NAME.limits"
)
_OF_LISTENERS: Final = "connections belong to listeners; give it in limits at the top level or in an entry of listeners"


class Limits(Section):
    """Bounds of one listener. What is over them is refused; nothing is cut short in silence."""

    elsewhere: ClassVar = dict.fromkeys(("max_requests_per_endpoint", "max_pending", "pending_timeout"), _OF_SERVICES)

    max_connections: Annotated[int, *Whole(1, 10_000_000)] = setting(
        10000, "Open client connections, shared evenly among the workers. Further ones wait in the kernel's queue."
    )
    max_connections_per_client: Annotated[int | None, *Whole(1, 10_000_000, none=True)] = setting(
        "none",
        "Open connections of one client address, on each listener, all workers together. On an `http` listener a new "
        "one over it is answered with 429 `too_many_connections` and closed, on a `tcp` listener closed at once. "
        "`none`: no limit.",
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


class ServiceLimits(Section):
    """Bounds of the endpoints of a service, so that a slow one cannot tie up everything."""

    elsewhere: ClassVar = dict.fromkeys(Limits.model_fields, _OF_LISTENERS)

    max_requests_per_endpoint: Annotated[int | None, *Whole(1, 10_000_000, none=True)] = setting(
        "none",
        "Requests and TCP connections, counted together, that one endpoint is given at the same time, exactly, by all "
        "workers together. Over it another endpoint is taken; when there is none, the request or connection waits. "
        "`none`: no limit.",
        example=100,
    )
    max_pending: Annotated[int | None, *Whole(0, 10_000_000, none=True)] = setting(
        "none",
        "Requests and TCP connections that may wait for an endpoint of the service in each worker, when all have "
        "`max_requests_per_endpoint`. Over it: 503 `overloaded` at once (a TCP connection is closed). `0`: none waits. "
        "`none`: 100.",
        example=100,
    )
    pending_timeout: PositiveDuration = setting(
        "1s", "How long a request waits for an endpoint. Then 503 `pending_timeout`."
    )


class AllLimits(ServiceLimits, Limits):
    """Bounds of each listener, and, in the last three keys, of the endpoints of each service. What is over them is
    refused; nothing is cut short in silence."""
