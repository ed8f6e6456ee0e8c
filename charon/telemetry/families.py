"""Every metric family: its kind, labels, meaning and buckets, shared by those who count and those who expose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from charon.base.names import NO_UPSTREAM, Metric

Kind = Literal["counter", "gauge", "histogram"]

OVERFLOW: Final = "overflow"
"""Value of every label of the one series that takes what a family has no room for."""

MAX_SERIES: Final = 1000
"""Series of a family, in each process and in their sum; further ones share one. (A histogram series is some fifteen
lines of text.)"""

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
        Family(
            Metric.HTTP_FAILURES,
            counter,
            ("listener", "reason"),
            "HTTP requests that did not go well, by the reason word of the log; also those that got an answer.",
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
        Family(Metric.LISTENER_REQUESTS, counter, ("listener",), "HTTP requests answered, by the listener."),
        Family(
            Metric.LISTENER_ERRORS,
            counter,
            ("listener",),
            "HTTP requests that were answered with 500 or above, by a service or by Charon, or broken off.",
        ),
        Family(Metric.CONNECTIONS, gauge, ("listener",), "Open client connections."),
        Family(Metric.CONNECTIONS_TOTAL, counter, ("listener",), "Client connections accepted."),
        Family(Metric.ACCEPT_ERRORS, counter, ("listener",), "Failures to accept a client connection."),
        Family(
            Metric.TLS_HANDSHAKES,
            counter,
            ("listener", "result"),
            "TLS handshakes of clients, by how they went: ok, resumed, or the reason word of the log.",
        ),
        Family(
            Metric.AUTHORIZATION_DENIED,
            counter,
            ("listener", "route"),
            "Requests and connections refused because of who asked; the route is empty where the listener refuses.",
        ),
        Family(
            Metric.INTERCEPTED,
            counter,
            ("direction", "result"),
            "Connections that were brought here by the kernel, outbound or inbound, by what became of them: carried to "
            "a service, passthrough to where they were going, or refused.",
        ),
        Family(Metric.INTERCEPT_ACTIVE, gauge, (), "Whether the rules of interception are in the kernel."),
        Family(
            Metric.ACCEPT_PAUSES,
            counter,
            ("cause",),
            "Times that a worker stopped accepting, for want of connections, descriptors or memory.",
        ),
        Family(Metric.ACCEPTING_PAUSED, gauge, (), "Workers that accept no connection for want of room."),
        Family(
            Metric.CONNECTIONS_DRAINING,
            gauge,
            (),
            "Open client connections that are to end: of listeners that have left, or because Charon stops.",
        ),
        Family(
            Metric.OVERLOADS,
            counter,
            ("cause",),
            "Times that a worker had more to do than it can (loop_lag) or too much memory (memory).",
        ),
        Family(Metric.OVERLOADED, gauge, ("cause",), "Workers that have more to do than they can, by what shows it."),
        Family(
            Metric.OVERLOAD_SHED,
            counter,
            ("cause",),
            "Requests and TCP connections turned away because their worker had more to do than it can.",
        ),
        Family(
            Metric.CONCURRENCY_LIMIT,
            gauge,
            ("service",),
            "Requests at the same time that are let through to the service now, in all workers together.",
        ),
        Family(
            Metric.CONCURRENCY_SHED,
            counter,
            ("service",),
            "Requests turned away because the service had all the requests that it can answer in time.",
        ),
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
        Family(Metric.LOG_WRITE_ERRORS, counter, (), "Failures to open or write the log; lines wait while it fails."),
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
        Family(
            Metric.CERTIFICATE_NOT_AFTER,
            gauge,
            ("file",),
            "When the certificate expires, in Unix seconds; of several in the file, the one that expires first.",
        ),
        Family(
            Metric.CERTIFICATE_FAILURES,
            counter,
            ("file",),
            "Failures to issue, renew or read the certificate; the one before stays in force.",
        ),
        Family(Metric.WORKERS, gauge, (), "Worker processes that are running."),
        Family(Metric.WORKER_RESTARTS, counter, (), "Worker processes that died and were replaced."),
        Family(Metric.BUILD_INFO, gauge, ("version", "python", "gevent"), "What is running; always 1."),
        Family(Metric.START_TIME, gauge, (), "When Charon was started, in Unix seconds."),
    )
    return {family.name: family for family in families}


FAMILIES: Final = _table()


class Current:
    """The endpoints, services and listeners that there are, and so whose series stay.

    ``endpoints`` are (service, endpoint name) pairs.
    """

    def __init__(self, endpoints: Iterable[tuple[str, str]], services: Iterable[str], listeners: Iterable[str]) -> None:
        self.endpoints = set(endpoints)
        self.services = set(services)
        self.listeners = set(listeners)
        self._upstreams = {NO_UPSTREAM, *(name for _, name in self.endpoints)}

    def add(self, service: str, name: str) -> None:
        """One more endpoint, and its service."""
        self.endpoints.add((service, name))
        self.services.add(service)
        self._upstreams.add(name)

    def holds(self, family: Family, labels: tuple[str, ...]) -> bool:
        """False only for the series of something that left."""
        service: str | None = None
        for label, value in zip(family.labels, labels, strict=True):
            if value == OVERFLOW:
                continue
            if label == "listener" and value not in self.listeners:
                return False
            if label == "service":
                if value not in self.services:
                    return False
                service = value
            elif label == "upstream":
                known = value in self._upstreams if service is None else (service, value) in self.endpoints
                if not known:
                    return False
        return True
