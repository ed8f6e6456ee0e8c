"""How long Charon waits, and for what."""

from __future__ import annotations

from typing import ClassVar

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Duration, OptionalDuration, PositiveDuration


class Timeouts(Section):
    """Deadlines. When one passes, the request is answered (or the connection closed) with its own reason word."""

    connect: PositiveDuration = setting(
        "5s", "Opening one connection to an endpoint, all of its addresses together. Then 504 `connect_timeout`."
    )
    response_headers: PositiveDuration = setting(
        "10s",
        "From the last byte of the request to the head of the endpoint's answer. Then 504 `response_timeout`.",
    )
    request: OptionalDuration = setting(
        "none",
        "The whole exchange, from the head of the request to the last byte of the answer. Then 504 "
        "`request_deadline`, or a broken connection when the answer has begun. `none`: no limit.",
    )
    idle: PositiveDuration = setting(
        "90s",
        "A connection, or a body in either direction, on which no byte moves: a kept-alive client or endpoint "
        "connection is closed, a TCP connection is ended, a stalled exchange fails. It also bounds clients that hardly "
        "read: room for more of an answer is there only when a third of the kernel's send buffer (tens to hundreds of "
        "kilobytes) has been taken, so that a client must take as much within this time, or it is cut with "
        "`client_too_slow`. How long an answer may take in all is `request`.",
    )
    client_header: PositiveDuration = setting(
        "10s", "From the first byte of a request's head to its last. Then 408 `request_timeout`."
    )
    client_body: PositiveDuration = setting(
        "60s",
        "A request body of which no byte comes, while Charon has room for more of it. Then 408 `client_too_slow`, or a "
        "broken connection when the answer has begun. Never longer than `idle`. It bounds each wait, not the whole "
        "body: see `limits.min_body_rate`.",
    )
    tls_handshake: PositiveDuration = setting(
        "10s",
        "From the beginning of a connection to the end of its TLS handshake, or, where TCP connections are routed by "
        "`sni`, to that name. Then the connection is closed, and `tls_handshake_failed` says `timeout`.",
    )
    detect: PositiveDuration = setting(
        "200ms",
        "With `protocol: auto`: how long a client may be silent, or leave it open what it speaks, before its "
        "connection is carried as TCP. Clients of protocols in which the server speaks first wait that long.",
    )
    client_fin: Duration = setting(
        "500ms",
        "How long a request that is not answered yet goes on after its client has closed its sending side, which "
        "is how most clients leave and how a few say that nothing more follows. `0s`: it ends at once.",
    )


class ServiceTimeouts(Section):
    """Deadlines of the requests to one service, whichever listener they come through. `timeout` of a route goes before
    `request`."""

    elsewhere: ClassVar = dict.fromkeys(
        ("client_header", "client_body", "client_fin", "tls_handshake", "detect"),
        "it is about clients; give it in timeouts at the top level or in an entry of listeners",
    )

    connect: OptionalDuration = setting(
        "none", "As in `timeouts` of the listener. `none`: what stands there.", example="1s"
    )
    response_headers: OptionalDuration = setting(
        "none", "As in `timeouts` of the listener. `none`: what stands there.", example="30s"
    )
    request: OptionalDuration = setting(
        "none", "As in `timeouts` of the listener. `none`: what stands there.", example="1m"
    )
    idle: OptionalDuration = setting(
        "none", "As in `timeouts` of the listener. `none`: what stands there.", example="5m"
    )
