"""Every metric family: its kind, labels, meaning and buckets, shared by those who count and those who expose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from charon.base.names import Metric

Kind = Literal["counter", "gauge", "histogram"]

OVERFLOW: Final = "overflow"
"""Value of every label of the one series that takes what a family has no room for."""

REQUEST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds: a proxy on the same machine answers in half a millisecond, a patient client waits 10 s."""

CONNECTION_BUCKETS: Final = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
"""Upper bounds in seconds of relayed connections, which live from one exchange to an afternoon."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. ``buckets`` are upper bounds, without the infinite one."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


def _table() -> dict[str, Family]:
    counter: Kind = "counter"
    gauge: Kind = "gauge"
    histogram: Kind = "histogram"
    endpoint = ("service", "upstream")
    families = (
        Family(
            Metric.HTTP_REQUESTS,
            counter,
            ("method", "status", "upstream"),
            "HTTP requests answered, by the endpoint that answered; none where Charon answered by itself.",
        ),
        Family(
            Metric.HTTP_LATENCY,
            histogram,
            ("method", "upstream"),
            "Seconds from the first byte of a request to the last byte of its answer.",
            REQUEST_BUCKETS,
        ),
        Family(Metric.HTTP_RETRIES, counter, ("method",), "Further tries of HTTP requests after a failed one."),
        Family(
            Metric.RETRY_BUDGET_EXHAUSTED,
            counter,
            ("service",),
            "Further tries that were not made because the service's retry budget had no room.",
        ),
        Family(
            Metric.BREAKER_STATE, gauge, endpoint, "State of the endpoint's breaker: 0 closed, 1 open, 2 half-open."
        ),
        Family(Metric.UPSTREAM_EJECTED, gauge, endpoint, "Whether traffic has set the endpoint aside (1) or not (0)."),
        Family(
            Metric.SERVICE_PANIC,
            gauge,
            ("service",),
            "Whether all endpoints of the service are set aside, so that all of them are tried.",
        ),
        Family(Metric.HTTP_RATE_LIMITED, counter, ("route",), "HTTP requests refused because of a rate limit."),
        Family(Metric.HTTP_IN_FLIGHT, gauge, ("listener",), "HTTP requests being handled now."),
        Family(Metric.CONNECTIONS, gauge, ("listener",), "Open client connections."),
        Family(Metric.CONNECTIONS_TOTAL, counter, ("listener",), "Client connections accepted."),
        Family(Metric.ACCEPT_ERRORS, counter, ("listener",), "Failures to accept a client connection."),
        Family(Metric.RECEIVED_BYTES, counter, ("listener",), "Bytes received from clients."),
        Family(Metric.SENT_BYTES, counter, ("listener",), "Bytes sent to clients."),
        Family(
            Metric.TCP_CONNECTIONS,
            counter,
            ("listener", "upstream", "outcome"),
            "Relayed connections that ended, by how: ok, or the reason word of the log.",
        ),
        Family(
            Metric.TCP_DURATION,
            histogram,
            ("listener", "upstream"),
            "Seconds that relayed connections lasted.",
            CONNECTION_BUCKETS,
        ),
        Family(Metric.UPSTREAM_HEALTH, gauge, endpoint, "Whether health checks find the endpoint up (1) or down (0)."),
        Family(
            Metric.BREAKER_TRANSITIONS,
            counter,
            ("upstream", "to_state"),
            "Changes of the circuit breaker of an endpoint, by the state reached.",
        ),
        Family(Metric.UPSTREAM_REQUESTS_IN_FLIGHT, gauge, endpoint, "Requests an endpoint is working on now."),
        Family(
            Metric.UPSTREAM_CONNECTS,
            counter,
            (*endpoint, "result"),
            "Connections tried to an endpoint, by how it went: ok, or the reason word of the log.",
        ),
        Family(
            Metric.UPSTREAM_CONNECT_TIME,
            histogram,
            endpoint,
            "Seconds that established connections to an endpoint took to open.",
            REQUEST_BUCKETS,
        ),
        Family(Metric.UPSTREAM_POOL_IDLE, gauge, endpoint, "Open connections to an endpoint that wait for a request."),
        Family(Metric.UPSTREAM_POOL_REUSED, counter, endpoint, "Requests sent over a connection already open."),
        Family(Metric.LOG_DROPPED, counter, (), "Log lines given up because the log could not be written in time."),
        Family(Metric.TRACE_SPANS_EXPORTED, counter, ("exporter",), "Spans that a collector has taken, by exporter."),
        Family(
            Metric.TRACE_SPANS_DROPPED,
            counter,
            ("reason",),
            "Spans that no collector has taken, by why: worker_queue_full, exporter_queue_full, collector_unreachable, "
            "collector_refused, shutdown, malformed.",
        ),
        Family(Metric.CONFIG_RELOAD_SUCCESSFUL, gauge, (), "Whether the last load of the configuration succeeded."),
        Family(Metric.CONFIG_RELOAD_TIME, gauge, (), "When the configuration in force was loaded, in Unix seconds."),
        Family(Metric.CONFIG_INFO, gauge, ("digest",), "The configuration in force; always 1."),
        Family(Metric.REGISTRY_RELOAD_SUCCESSFUL, gauge, (), "Whether the last load of the registry succeeded."),
        Family(Metric.REGISTRY_RELOAD_TIME, gauge, (), "When the registry in force was loaded, in Unix seconds."),
        Family(Metric.WORKERS, gauge, (), "Worker processes that are running."),
        Family(Metric.WORKER_RESTARTS, counter, (), "Worker processes that died and were replaced."),
        Family(Metric.BUILD_INFO, gauge, ("version", "python", "gevent"), "What is running; always 1."),
        Family(Metric.START_TIME, gauge, (), "When Charon was started, in Unix seconds."),
    )
    return {family.name: family for family in families}


FAMILIES: Final = _table()
