"""One rule of a listener, compiled: what it matches, and everything that is done for a request under it."""

from __future__ import annotations

from charon.config.snapshot import RouteSpec
from charon.policy.access import Access
from charon.policy.edits import FieldEdits, Redirect, Rewrite
from charon.policy.retry import RetryPolicy
from charon.policy.split import Split
from charon.shared.limiter import Buckets, Limiter
from charon.wire.target import normalise_path


class Route:
    """A compiled :class:`RouteSpec`; the first six attributes are what :class:`RouteTable` goes by.

    On a TCP listener the host is the server name of the client's TLS.
    """

    __slots__ = (
        "access",
        "headers",
        "host",
        "limiter",
        "methods",
        "name",
        "path",
        "path_prefix",
        "path_regex",
        "policy",
        "redirect",
        "request_edits",
        "response_edits",
        "retry",
        "rewrite",
        "service",
        "split",
        "timeout",
    )

    def __init__(self, spec: RouteSpec, buckets: Buckets) -> None:
        self.host = spec.host if spec.sni is None else spec.sni
        self.path_prefix = spec.path_prefix
        self.path = spec.path
        self.path_regex = spec.path_regex
        self.methods = spec.methods
        self.headers = spec.headers
        self.name = spec.name
        self.service = spec.service
        self.split = Split(spec.services, spec.sticky) if spec.services else None
        self.timeout = spec.timeout
        self.access = Access(spec.access) if spec.access is not None else None
        self.retry = spec.retry
        self.policy = RetryPolicy.compile(spec.retry) if spec.retry is not None else None
        self.limiter = Limiter(spec.rate_limit, buckets) if spec.rate_limit is not None else None
        matched = spec.path_prefix or spec.path
        self.rewrite = Rewrite(spec.rewrite, matched, normalise_path) if spec.rewrite is not None else None
        self.redirect = Redirect(spec.redirect) if spec.redirect is not None else None
        edits = spec.request_headers
        self.request_edits = FieldEdits(edits, request=True) if edits is not None else None
        edits = spec.response_headers
        self.response_edits = FieldEdits(edits, request=False) if edits is not None else None
