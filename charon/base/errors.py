"""Every way in which a request or connection can fail: whose fault, which answer, which word.

A :class:`Reason` is a constant of this module. Its ``word`` is what users see in ``X-Charon-Error``, in the access
line and in metrics; it never changes once released.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Blame(Enum):
    """Who caused a failure. Only ``UPSTREAM`` may ever count against an endpoint."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    CHARON = "charon"


@dataclass(frozen=True, slots=True)
class Reason:
    """One kind of failure.

    ``status`` is the HTTP status Charon answers with (499 is only ever logged: the client has left).
    ``unsent`` says that no byte of the request can have been acted on, so that any method may be tried again.
    """

    word: str
    status: int
    blame: Blame
    text: str
    unsent: bool = False

    def __str__(self) -> str:
        return self.word


_C, _U, _O = Blame.CLIENT, Blame.UPSTREAM, Blame.CHARON

# What the client sent.
BAD_REQUEST = Reason("bad_request", 400, _C, "The request is not valid HTTP/1.1.")
BAD_HOST = Reason("bad_host", 400, _C, "The request has no single valid Host.")
BAD_FRAMING = Reason("bad_framing", 400, _C, "The length of the request body is not clear.")
BAD_CHUNK = Reason("bad_chunk", 400, _C, "The chunked request body is malformed.")
METHOD_NOT_ALLOWED = Reason("method_not_allowed", 405, _C, "This method is not carried here.")
REQUEST_TIMEOUT = Reason("request_timeout", 408, _C, "The request did not arrive in time.")
BODY_TOO_LARGE = Reason("body_too_large", 413, _C, "The request body is larger than allowed.")
URI_TOO_LONG = Reason("uri_too_long", 414, _C, "The request target is longer than allowed.")
EXPECTATION_FAILED = Reason("expectation_failed", 417, _C, "Only 100-continue can be expected.")
HEADERS_TOO_LARGE = Reason("headers_too_large", 431, _C, "The header fields are larger or more than allowed.")
UNKNOWN_CODING = Reason("unknown_coding", 501, _C, "Only the chunked transfer coding is understood.")
BAD_VERSION = Reason("bad_version", 505, _C, "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
CLIENT_ABORT = Reason("client_abort", 499, _C, "The client went away.")
RATE_LIMITED = Reason("rate_limited", 429, _C, "Too many requests; see Retry-After.")
TOO_MANY_CONNECTIONS = Reason("too_many_connections", 429, _C, "This client has all the connections it may have.")
PLAIN_HTTP = Reason("plaintext_client", 400, _C, "This port speaks HTTPS, and the request came as plain HTTP.")
BAD_CLIENT_HELLO = Reason("bad_client_hello", 400, _C, "The connection does not begin with a valid TLS ClientHello.")
BAD_PROXY_HEADER = Reason("bad_proxy_header", 400, _C, "The connection does not begin with a valid PROXY header.")
CLIENT_TOO_SLOW = Reason("client_too_slow", 408, _C, "The request body stalled.")

# What Charon decided.
NO_ROUTE = Reason("no_route", 404, _O, "No route matches this host and path, and there is no default service.")
IDENTITY_DENIED = Reason("identity_denied", 403, _O, "This identity is not allowed here.")
PASSTHROUGH_DENIED = Reason(
    "passthrough_denied", 403, _O, "No service is at this destination, and nothing else may be reached."
)
OWN_LISTENER = Reason("own_listener", 508, _O, "This connection was made to the proxy itself, and leads nowhere.")
LOOP_DETECTED = Reason("loop_detected", 508, _O, "This request has passed through this proxy before.")
NO_ENDPOINT = Reason("no_endpoint", 503, _O, "The service has no endpoint that can be used.")
UNKNOWN_SERVICE = Reason("unknown_service", 503, _O, "The service is not in the registry.")
NO_HEALTHY_ENDPOINT = Reason("no_healthy_endpoint", 503, _O, "Health checks find no endpoint of the service up.")
CIRCUIT_OPEN = Reason("circuit_open", 503, _O, "The endpoint has failed too often and is left alone for a while.")
OVERLOADED = Reason("overloaded", 503, _O, "There is more to do than can be done now; see Retry-After.")
PENDING_TIMEOUT = Reason("pending_timeout", 503, _O, "The service had no room for the request in time.")
DRAINING = Reason("draining", 503, _O, "Charon is shutting down.")
INTERNAL = Reason("internal", 500, _O, "Charon failed; its log says how.")
LOCAL_LIMIT = Reason("local_limit", 503, _O, "Charon has no descriptor, port or memory left.", unsent=True)

# What the upstream did.
CONNECT_REFUSED = Reason("connect_refused", 502, _U, "The upstream refused the connection.", unsent=True)
CONNECT_FAILED = Reason("connect_failed", 502, _U, "The upstream cannot be reached.", unsent=True)
CONNECT_TIMEOUT = Reason("connect_timeout", 504, _U, "The upstream did not accept the connection in time.", unsent=True)
UPSTREAM_TLS_FAILED = Reason(
    "upstream_tls_failed", 502, _U, "No TLS connection with the upstream came about.", unsent=True
)
UPSTREAM_IDENTITY = Reason("upstream_identity", 502, _U, "The upstream is not who it should be.", unsent=True)
UPSTREAM_RESET = Reason("upstream_reset", 502, _U, "The upstream closed the connection before it answered.")
UPSTREAM_MALFORMED = Reason("upstream_malformed", 502, _U, "The upstream's answer is not valid HTTP/1.1.")
UPSTREAM_TRUNCATED = Reason("upstream_truncated", 502, _U, "The upstream's answer ended too early.")
RESPONSE_TIMEOUT = Reason("response_timeout", 504, _U, "The upstream did not answer in time.")
REQUEST_DEADLINE = Reason("request_deadline", 504, _U, "The whole request took longer than allowed.")
UPSTREAM_IDLE = Reason("upstream_idle", 504, _U, "The upstream stopped in the middle of the exchange.")

UPSTREAM_STATUS = Reason("upstream_status", 502, _U, "The upstream answered with an error.")

# How a relayed connection can end, besides the above.
IDLE_TIMEOUT = Reason("idle_timeout", 408, _C, "No byte in either direction for the idle time.")


class BadMessage(Exception):
    """A peer's bytes break the rules. ``detail`` names the rule, never quotes the peer."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.word}: {detail}")
        self.reason = reason
        self.detail = detail


class ExchangeFailed(Exception):
    """One request cannot be completed, for ``reason``. ``detail`` is for logs only.

    ``retry_after``: seconds until it may be worth trying again, where that is known. ``fields``: header lines for the
    answer, each with its CRLF.
    """

    def __init__(self, reason: Reason, detail: str = "", retry_after: float | None = None, fields: bytes = b"") -> None:
        super().__init__(f"{reason.word}: {detail}" if detail else reason.word)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        self.fields = fields


class ConfigError(Exception):
    """The configuration or the registry cannot be used; ``problems`` holds every mistake found, as printable lines."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CertificateError(Exception):
    """A certificate, a key or a list of authorities cannot be used; the text names the file and says why."""


class StartError(Exception):
    """Charon cannot start although its configuration is fine: a port is taken, a permission is missing."""
