"""Where connections are accepted, and what is done with them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from charon.config.schema.intercept import Ports
from charon.config.schema.limits import Limits
from charon.config.schema.metrics import Metrics
from charon.config.schema.rate_limit import RateLimit
from charon.config.schema.routes import Route
from charon.config.schema.section import Section, block, setting
from charon.config.schema.services import NOT_IN_LISTENERS
from charon.config.schema.timeouts import Timeouts
from charon.config.schema.tls import Access, Tls
from charon.config.schema.values import (
    Boolean,
    Choice,
    ListenAddress,
    Network,
    OptionalName,
    OptionalStaticTarget,
)

SERVER_FIRST: Final = (21, 22, 25, 110, 143, 587, 3306, 5900)
"""FTP, ssh, SMTP, POP3, IMAP, submission, MySQL, VNC: the server speaks first, so that there is nothing to look at."""


class ProxyProtocol(Section):
    """The PROXY protocol, versions 1 and 2, as HAProxy and cloud load balancers speak it: a header at the beginning of
    a connection, before TLS, that says who the client is."""

    accept: tuple[Network, ...] = setting(
        (),
        "Networks, addresses or `unix` (a Unix socket) of the proxies in front. Each connection from there must begin "
        "with a header; its client is the one that the header names. Connections from elsewhere have none, and what "
        "looks like one is taken for the client's data.",
        example=["10.0.0.5"],
    )


class Traffic(Section):
    """What can be set at the top level for all listeners, and for each listener."""

    protocol: Annotated[str, *Choice("http", "tcp", "auto")] = setting(
        "http",
        "`http`, `tcp`, or `auto`, which looks at the first bytes of a connection: HTTP/1 is treated as on an `http` "
        "listener, everything else as on a `tcp` one (HTTP/2 with prior knowledge too), with TLS routed by `sni`.",
    )
    target_service_name: OptionalName = setting(
        "none",
        "Service that is used when no route matches, and for all TCP connections. It is taken, and "
        "`target_service_addr` is not looked at, when both are given.",
        example="http-backend",
    )
    target_service_addr: OptionalStaticTarget = setting(
        "none",
        "Address (`host:port`, `http(s)://host:port` or `unix:/path`) that is used when no route matches, for a "
        "service that is in no registry.",
        example="localhost:9091",
    )
    routes: tuple[Route, ...] = setting((), "Rules for HTTP requests, from top to bottom; the first match wins.")
    trusted_proxies: tuple[Network, ...] = setting(
        (),
        "Networks, addresses or `unix` (peers on a Unix socket) whose `X-Forwarded-*` fields are believed. From all "
        "other clients they are taken out and written anew.",
        example=["10.0.0.0/8"],
    )
    request_id: Boolean = setting(
        False,
        "Give each HTTP request a name: the one that it brings in `X-Request-Id`, or a new one. It goes on to the "
        "service, comes back with the answer, stands in the log, and `charon explain` finds the request by it.",
    )
    timeouts: Timeouts = block(Timeouts, "How long Charon waits, and for what.")
    limits: Limits = block(Limits, "How much a listener takes on.")
    metrics: Metrics = block(Metrics, "Where Prometheus finds the metrics.")
    rate_limit: RateLimit = block(RateLimit, "How many requests are let through.")
    tls: Tls = block(Tls, "TLS towards clients.")
    access: Access = block(Access, "Which clients may use the listener, by identity.")
    proxy_protocol: ProxyProtocol = block(ProxyProtocol, "Who clients are, as proxies in front say.")


class Listener(Traffic):
    """One listening address. Every other key overrides the one of the top level, key by key in each block; the two
    `target_*` keys override together."""

    elsewhere: ClassVar = NOT_IN_LISTENERS

    name: OptionalName = setting(
        "none",
        "Name in logs and metrics; no two listeners have the same. `none`: protocol and port, as in `http-8080`.",
        example="inbound",
    )
    address: ListenAddress = setting(
        ...,
        "`:8080` (all interfaces, IPv4 and IPv6), `127.0.0.1:8080`, `[::]:8080` or `unix:/path`. Port 0 is any free "
        "port.",
        example=":8080",
    )
    original_destination: Boolean = setting(
        False,
        "Connections come here by a rule of the kernel (`intercept`), and are carried to where they were going. Routes "
        "are looked at first; then, for outgoing connections, the service that has an endpoint at that address; then "
        "the listener's target; then the address itself, as `passthrough` says. `/metrics` is not answered here.",
    )
    passthrough: Annotated[str, *Choice("allow", "deny")] = setting(
        "allow",
        "With `original_destination`: whether a connection goes on to its destination that belongs to no service. "
        "`deny`: 403 `passthrough_denied`, or closed.",
    )
    opaque_ports: tuple[Ports, ...] = setting(
        list(SERVER_FIRST),
        "With `original_destination` and `protocol: auto`: destination ports for which nobody looks at the first "
        "bytes, as the server speaks first. On other ports such a connection waits for `timeouts.detect`. A list "
        "given here takes the place of the default.",
    )
    access_log: Boolean = setting(
        True, "Log a line for each request and each TCP connection, whatever `logging.access_log` says."
    )
