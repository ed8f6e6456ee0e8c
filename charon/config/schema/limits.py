"""How much is taken on: by a listener, and by the endpoints of a service."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from charon.config.schema.section import Section, block, setting
from charon.config.schema.values import Boolean, Number, OptionalDuration, PositiveDuration, Size, Whole

_OF_SERVICES: Final = (
    "endpoints are shared by all listeners; give it in limits at the top level, for all services, or in "
    "services.NAME.limits"
)
_OF_ALL: Final = "it counts the connections of all listeners; give it in limits at the top level"
_OF_LISTENERS: Final = "connections belong to listeners; give it in limits at the top level or in an entry of listeners"


class Limits(Section):
    """Bounds of one listener. What is over them is refused; nothing is cut short in silence."""

    elsewhere: ClassVar = {
        **dict.fromkeys(
            ("max_requests_per_endpoint", "max_pending", "pending_timeout", "adaptive_concurrency"), _OF_SERVICES
        ),
        "max_total_connections": _OF_ALL,
    }

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
    min_body_rate: Annotated[int | None, *Size(1, none=True)] = setting(
        "none",
        "Bytes a second that the body of a request must come with, on average. Time in which Charon waits for the "
        "client counts, from the first byte of the body on that did not come along with the head; time in which the "
        "endpoint takes nothing does not. The first 10 s are free. Below it: 408 `client_too_slow`. `none`: no limit, "
        "because no rate is right for everybody: a phone at the edge of its network may be slow, and a request may be "
        "a stream whose client says something once a minute. `1KiB` keeps out clients that drip.",
        example="1KiB",
    )


class AdaptiveConcurrency(Section):
    """How many requests a service is given at the same time, found out by itself: while requests wait no longer for
    their answers than they do when there is little to do, more are let through; when they wait longer, fewer. What is
    over it is answered with 503 `overloaded` and `Retry-After` at once, so that those that are let through stay fast
    however many come. A request counts until the head of its answer is there; upgraded and TCP connections do not
    count. There is one limit for each service, of all workers together. A service that gets slower by itself, and not
    for the number of its requests, is held up for some seconds until that is known."""

    enabled: Boolean = setting(False, "Look after this service in that way.")
    min_limit: Annotated[int, *Whole(1, 1_000_000)] = setting(
        4, "Requests at the same time that are let through whatever their latency is, all workers together."
    )
    max_limit: Annotated[int, *Whole(1, 1_000_000)] = setting(
        1000, "Requests at the same time that are never gone beyond, all workers together."
    )
    tolerance: Annotated[float, *Number(1, 100)] = setting(
        2.0,
        "How many times their usual latency (the median when there is little to do) requests may take before there "
        "are too many of them. Close to 1, throughput is lost to chance; far above it, latency.",
    )
    target_latency: OptionalDuration = setting(
        "none",
        "Latency (the median) up to which there are not too many. `none`: `tolerance` times the usual one, which is "
        "measured.",
        example="200ms",
    )
    remeasure: PositiveDuration = setting(
        "30s",
        "While there is too much to do all the time, how often a moment with only `min_limit` requests is made to "
        "measure the usual latency. Not with `target_latency`.",
    )


class ServiceLimits(Section):
    """Bounds of the endpoints of a service, so that a slow one cannot tie up everything."""

    elsewhere: ClassVar = {**dict.fromkeys(Limits.model_fields, _OF_LISTENERS), "max_total_connections": _OF_ALL}

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
    adaptive_concurrency: AdaptiveConcurrency = block(
        AdaptiveConcurrency, "How many requests at the same time, found out by itself."
    )


class AllLimits(ServiceLimits, Limits):
    """Bounds of each listener, of all listeners together (`max_total_connections`), and of the endpoints of each
    service (the keys from `max_requests_per_endpoint` to `adaptive_concurrency`). What is over them is refused; nothing
    is cut short in silence."""

    max_total_connections: Annotated[int | None, *Whole(1, 10_000_000, none=True)] = setting(
        "none",
        "Open client connections of all listeners together, shared evenly among the workers. Further ones wait in the "
        "kernel's queues, as over `max_connections`, and `accepting_paused` is logged. `none`: as many as there are "
        "descriptors for. Each worker takes all descriptors that the hard limit (`LimitNOFILE` of systemd, `ulimit "
        "-Hn`) gives it, and stops accepting before the last ones, a quarter of them and at most 4096, are gone: those "
        "are for connections to endpoints.",
        example=20000,
    )
