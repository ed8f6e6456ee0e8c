"""What to do about each reason of :mod:`charon.base.errors`: one sentence, for whoever looks for the cause."""

from __future__ import annotations

from typing import Final

ADVICE: Final[dict[str, str]] = {
    # What the client sent.
    "bad_request": "Look at what the client sends: something between it and Charon may also change its bytes.",
    "bad_host": "Have the client send exactly one Host, with a valid name.",
    "bad_framing": "Have the client send either one Content-Length or Transfer-Encoding: chunked, and not both.",
    "bad_chunk": "Look at how the client encodes its body; Charon does not repair chunks.",
    "method_not_allowed": "Use another method; CONNECT is not carried, as Charon is no forward proxy.",
    "request_timeout": "See why the client sends so slowly, or raise timeouts.client_header.",
    "body_too_large": "Send less, or raise limits.max_body_bytes.",
    "uri_too_long": "Shorten the target, or raise limits.max_header_bytes.",
    "expectation_failed": "Have the client expect nothing but 100-continue.",
    "headers_too_large": "Send fewer or smaller fields, or raise limits.max_header_bytes and limits.max_headers.",
    "unknown_coding": "Have the client use no transfer coding but chunked.",
    "bad_version": "Have the client speak HTTP/1.1.",
    "client_abort": "Nothing is wrong here: the client left first, perhaps as its own deadline was too short.",
    "rate_limited": "Send less, wait as Retry-After says, or raise the rate_limit of the route or listener.",
    "too_many_connections": "Have the client reuse its connections, or raise limits.max_connections_per_client.",
    "client_too_slow": "See why the client sends or takes so slowly, or raise timeouts.idle.",
    "plaintext_client": "Ask with https://, or use a listener without TLS.",
    "bad_client_hello": "Have the client begin with TLS, or look for what else speaks to this port.",
    # What Charon decided.
    "no_route": "Run `charon route METHOD URL` to see why no rule matches; add a route, or a target_service_name.",
    "loop_detected": "Follow the address of the service: it leads back to this Charon.",
    "no_endpoint": "See `charon status`: the service has no address, or all that could be asked were tried.",
    "unknown_service": "Put the service into the registry, or correct its name in the route.",
    "no_healthy_endpoint": "See why the probes fail: the service is down, or health_check asks it the wrong thing.",
    "circuit_open": "The upstream_error lines before it have the cause; a trial follows after open_duration.",
    "overloaded": "Add endpoints or send less; if it can bear more, raise limits.max_requests_per_endpoint.",
    "pending_timeout": "Add endpoints or send less, or raise limits.pending_timeout.",
    "draining": "Ask again: this Charon was stopping, and another one or its successor answers.",
    "internal": "This is a fault of Charon's: report it with the internal_error line of the log.",
    "local_limit": "Raise the limit of open files (LimitNOFILE), or see what uses up descriptors, ports or memory.",
    "identity_denied": "Compare the client's identity with access.allow and access.deny of listener and route.",
    # What the upstream did.
    "connect_refused": "Start the service, or correct its address: nothing listens there.",
    "connect_failed": "Check the way to the address: name, network, firewall, or a Unix socket's permissions.",
    "connect_timeout": "Check the way to the address: packets are dropped, or the service is too busy to accept.",
    "upstream_reset": "Look into the service's log: it closed the connection without an answer, as crashes do.",
    "upstream_malformed": "Look at what the service sends: it is no valid HTTP/1.1, or not HTTP at all.",
    "upstream_truncated": "Look into the service's log: it stopped in the middle of an answer.",
    "response_timeout": "See why the service takes so long, or raise timeouts.response_headers.",
    "request_deadline": "See which part took so long, or raise timeouts.request or the route's timeout.",
    "upstream_idle": "See why the service went silent, or raise timeouts.idle for long polls and streams.",
    "upstream_status": "Look into the service's log: it answered with an error of its own.",
    "upstream_tls_failed": "Does the service speak TLS, and who signed its certificate? upstream_error has the cause.",
    "upstream_identity": "Check tls.identities of the service against the certificate that it shows.",
    # Of intercepted and announced connections.
    "bad_proxy_header": "Does the peer send a PROXY header? Only peers that do belong into proxy_protocol.accept.",
    "passthrough_denied": "Put the destination into the registry, exclude it in intercept, or set passthrough: allow.",
    "own_listener": "Have the program dial the service it wants, not the port that Charon intercepts on.",
    # How a relayed connection can end.
    "idle_timeout": "Have either side send keep-alives, or raise timeouts.idle.",
}
"""By the reason's word. A test holds it complete."""
