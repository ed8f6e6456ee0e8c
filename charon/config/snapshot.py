"""What workers are told to do: one immutable, complete description.

The supervisor builds a :class:`Snapshot` from configuration and discovery and sends it down the channel; a worker
swaps one reference, and a request keeps the snapshot it started with. Plain values only: a worker never imports the
schema. Times are seconds, sizes are bytes; ``None`` means "no limit" wherever it is allowed. Of what a large registry
holds by the ten thousand, endpoints and addresses, the values are tuples, which are made and compared fastest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Final, NamedTuple

from charon.base.identities import spiffe_id


class SocketAddress(NamedTuple):
    """Where to connect: ``host`` is a literal IP address, or a path when ``port`` is 0 (a Unix socket)."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        return self.port == 0


class EndpointSpec(NamedTuple):
    """One endpoint of a service.

    ``name`` is its label in logs and metrics (``localhost:9091``, or ``10.0.0.5:80`` where a name has several
    addresses). ``host`` is the host name it was written with, without a port, empty for a literal address or a Unix
    socket; ``https``: it was written ``https://``. ``candidates`` are tried in order within one connect timeout
    (``localhost`` over IPv4, then IPv6).
    ``row`` is its row in the shared table, -1 for none.
    """

    name: str
    candidates: tuple[SocketAddress, ...]
    weight: int = 1
    row: int = -1
    host: str = ""
    https: bool = False


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What one side of TLS needs, as PEM: its certificate with all but the root, its key, whom it trusts, and what has
    been revoked. Empty bytes: none. ``version`` differs whenever any of it does, so that contexts are made once each.
    ``identity`` is the SPIFFE identity in the certificate.
    """

    version: str
    chain: bytes = b""
    key: bytes = field(default=b"", repr=False)
    roots: bytes = b""
    revoked: bytes = b""
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class ServerTlsSpec:
    """TLS towards clients. ``material`` is a key of ``Snapshot.materials``. ``client_auth`` is required, optional or
    none; a client's certificate must be of ``trust_domain`` where that is given."""

    material: str
    min_version: str = "1.2"
    client_auth: str = "required"
    trust_domain: str | None = None


@dataclass(frozen=True, slots=True)
class ClientTlsSpec:
    """TLS towards the endpoints of a service. ``material`` is a key of ``Snapshot.materials``.

    ``identities``: SPIFFE identities, one of which the endpoint must have; where there are none, that of its service in
    ``trust_domain``; where that is None too, its certificate must be for ``server_name``. ``server_name`` is also sent
    as SNI; None: the endpoint's own host name. ``system_roots``: the public authorities are trusted as well as those of
    the material.
    """

    material: str
    min_version: str = "1.2"
    server_name: str | None = None
    identities: tuple[str, ...] = ()
    system_roots: bool = False
    trust_domain: str | None = None

    @property
    def by_host_name(self) -> bool:
        """Does the host name decide who an endpoint is?"""
        return not self.identities and self.trust_domain is None

    def expected(self, service: str) -> tuple[str, ...]:
        """The identities, one of which the endpoints of ``service`` must have; none: their host name decides."""
        if self.identities or self.trust_domain is None:
            return self.identities
        return (spiffe_id(self.trust_domain, service),)


@dataclass(frozen=True, slots=True)
class AccessSpec:
    """Who may: identities, exact or with ``*`` for any run of characters. ``deny`` goes before ``allow``; an empty
    ``allow`` lets everybody in who is not denied."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """When an endpoint's breaker opens: after ``failure_threshold`` failures in a row, or, where ``error_rate`` (0 to
    1) is given, when that share of at least ``min_requests`` failed within ``window`` seconds. It then waits
    ``open_duration`` seconds before one trial."""

    failure_threshold: int = 3
    open_duration: float = 20.0
    error_rate: float | None = None
    window: float = 10.0
    min_requests: int = 20


@dataclass(frozen=True, slots=True)
class HealthCheckSpec:
    """Active probes. ``expected_status`` holds inclusive ranges; ``host`` is the Host of an HTTP probe, None: the
    endpoint's own."""

    type: str = "tcp"
    interval: float = 5.0
    timeout: float = 2.0
    path: str = "/"
    host: str | None = None
    expected_status: tuple[tuple[int, int], ...] = ((200, 200),)
    healthy_threshold: int = 1
    unhealthy_threshold: int = 1


@dataclass(frozen=True, slots=True)
class PassiveSpec:
    """When traffic sets an endpoint aside: after ``failures`` in a row, for ``cooldown`` seconds, doubling with each
    repetition up to ``max_cooldown``; at most ``max_ejected_percent`` of a service's endpoints at once."""

    failures: int = 3
    cooldown: float = 30.0
    max_cooldown: float = 300.0
    max_ejected_percent: float = 50.0


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """When a request is tried again. ``attempts`` are further tries. ``on`` holds condition words (see policy.retry).
    ``any_method``: also methods that are not idempotent (only ever where the route says so)."""

    attempts: int = 2
    backoff: float = 0.15
    max_backoff: float = 2.0
    on: tuple[str, ...] = ("connect-failure", "reset")
    per_try_timeout: float | None = None
    budget_percent: float = 20.0
    budget_min: int = 3
    max_body_bytes: int = 65_536
    any_method: bool = False


@dataclass(frozen=True, slots=True)
class RateLimitSpec:
    """A token bucket of ``rate`` per second and ``burst``; ``name`` labels it. ``key`` is ``route``, ``client_ip`` or
    ``header:NAME``; ``prefixes`` are the paths it applies to, empty for all."""

    name: str
    rate: float
    burst: int
    key: str = "route"
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BalanceSpec:
    """``algorithm`` is round_robin, least_request, random, ring_hash or ewma. ``hash_on`` (ring_hash) is ``client_ip``,
    ``path``, ``header:NAME`` or ``cookie:NAME``. ``slow_start`` is in seconds, 0 for none."""

    algorithm: str = "round_robin"
    hash_on: str = "client_ip"
    slow_start: float = 0.0

    @property
    def hashes(self) -> bool:
        """Whether requests have a key that decides."""
        return self.algorithm == "ring_hash"


@dataclass(frozen=True, slots=True)
class BulkheadSpec:
    """``max_requests_per_endpoint`` at the same time, in the whole appliance; ``max_pending`` may wait for at most
    ``pending_timeout`` seconds in each worker."""

    max_requests_per_endpoint: int | None = None
    max_pending: int = 0
    pending_timeout: float = 1.0


_BALANCE: Final = BalanceSpec()
_RETRY: Final = RetrySpec()


@dataclass(frozen=True, slots=True)
class ConcurrencySpec:
    """How the number of requests at the same time is found, of all workers together: between ``min_limit`` and
    ``max_limit``, so that the median latency stays near ``target_latency`` seconds or, where that is None,
    ``tolerance`` times the usual one, which is measured again after ``remeasure`` seconds of too much."""

    min_limit: int = 4
    max_limit: int = 1000
    tolerance: float = 2.0
    target_latency: float | None = None
    remeasure: float = 30.0


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A named set of endpoints and how they are treated. ``known`` is false when the registry does not (or no longer)
    hold the name. ``breaker``, ``health_check`` and ``passive`` are None where they are off. ``proxy_header`` is the
    version of the PROXY header that connections begin with, 0 for none."""

    name: str
    endpoints: tuple[EndpointSpec, ...]
    balance: BalanceSpec = _BALANCE
    breaker: BreakerSpec | None = None
    health_check: HealthCheckSpec | None = None
    passive: PassiveSpec | None = None
    retry: RetrySpec = _RETRY
    bulkhead: BulkheadSpec | None = None
    concurrency: ConcurrencySpec | None = None
    timeouts: TimeoutOverrides | None = None
    tls: ClientTlsSpec | None = None
    proxy_header: int = 0
    known: bool = True
    row: int = -1

    def treatment(self) -> dict[str, Any]:
        """How the service is treated, by field: all that two services may have in common."""
        return dict(zip(TREATMENT, treatment(self), strict=True))


TREATMENT: Final = tuple(f.name for f in fields(ServiceSpec) if f.name not in ("name", "endpoints", "known", "row"))
treatment: Final = attrgetter(*TREATMENT)
"""The values of the fields that are not a service's own, in the order of ``TREATMENT``."""


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """Changes to header fields, in this order: ``remove``, ``set``, ``add``."""

    remove: tuple[str, ...] = ()
    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RewriteSpec:
    """Changes to the target on its way up: what takes the place of the matched prefix, of the host; or a regular
    expression over the path and its substitution."""

    path_prefix: str | None = None
    host: str | None = None
    regex: str | None = None
    substitution: str | None = None


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """An answer that sends the client elsewhere; None keeps what the request had."""

    status: int = 302
    scheme: str | None = None
    host: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One rule: conditions (None or empty: any) and what is done. ``name`` is its stable label in logs and metrics.

    ``sni`` is a condition on connections of a TCP listener: the server name that their TLS begins with, exact or
    ``*.suffix``. ``services`` are (name, weight) pairs, used instead of ``service``; ``sticky`` (``cookie:NAME`` or
    ``header:NAME``) keeps a client with one of them. ``headers`` are (name, value) pairs that must be there; ``*`` is
    any value.
    """

    name: str
    service: str | None
    host: str | None = None
    path_prefix: str | None = None
    path: str | None = None
    path_regex: str | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    services: tuple[tuple[str, int], ...] = ()
    sticky: str | None = None
    timeout: float | None = None
    retry: RetrySpec | None = None
    rate_limit: RateLimitSpec | None = None
    rewrite: RewriteSpec | None = None
    redirect: RedirectSpec | None = None
    request_headers: HeaderEdits | None = None
    response_headers: HeaderEdits | None = None
    access: AccessSpec | None = None
    sni: str | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds.

    ``connect``: one upstream connection, all candidates together. ``response_headers``: from the last byte of the
    request to the head of the final response. ``request``: the whole exchange. ``idle``: a connection, or a body in
    either direction, with no byte moving. ``client_header``: from the first byte of a request head to its last.
    ``client_body``: between two bytes of a request body, never longer than ``idle``.
    ``client_fin``: how long an unanswered request goes on after its client closed its sending side.
    ``tls_handshake``: from a connection to the end of its handshake, or to its whole ClientHello. ``detect``: how long
    it may be open what a client speaks.
    """

    connect: float = 5.0
    response_headers: float = 10.0
    request: float | None = None
    idle: float = 90.0
    client_header: float = 10.0
    client_body: float = 60.0
    client_fin: float = 0.5
    tls_handshake: float = 10.0
    detect: float = 0.2


@dataclass(frozen=True, slots=True)
class TimeoutOverrides:
    """What a service has in the place of a listener's :class:`Timeouts`, in seconds; None: as the listener has it."""

    connect: float | None = None
    response_headers: float | None = None
    request: float | None = None
    idle: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds per listener. ``min_body_rate`` is in bytes a second."""

    max_connections: int = 10_000
    max_header_bytes: int = 65_536
    max_headers: int = 128
    max_body_bytes: int | None = None
    min_body_rate: int | None = None


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """One listening address and what is done with its connections.

    ``address`` is as configured (``:8080``, ``127.0.0.1:8080``, ``[::]:8080``, ``unix:/path``). ``default_service``
    is used where no route matches. ``metrics_path`` is None where metrics are not answered on this listener.
    ``direction`` is ``outbound`` or ``inbound`` where connections are carried to their original destination; those that
    belong to no service only where ``passthrough`` is true. ``opaque_ports`` are ranges of destination ports where the
    first bytes are not looked at. ``accept_proxy`` are the networks whose connections begin with a PROXY header.
    ``request_id``: requests have a name (X-Request-Id).
    """

    name: str
    address: str
    protocol: str
    routes: tuple[RouteSpec, ...] = ()
    default_service: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    access_log: bool = True
    request_id: bool = False
    rate_limit: RateLimitSpec | None = None
    max_connections_per_client: int | None = None
    metrics_path: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    tls: ServerTlsSpec | None = None
    access: AccessSpec | None = None
    direction: str | None = None
    passthrough: bool = True
    opaque_ports: tuple[tuple[int, int], ...] = ()
    accept_proxy: tuple[str, ...] = ()

    def needs_new_server(self, changed: ListenerSpec) -> bool:
        """Whether a worker has to open the listener anew to follow ``changed``; all else it takes over as it stands."""
        return (self.address, self.protocol) != (changed.address, changed.protocol)


@dataclass(frozen=True, slots=True)
class LoggingSpec:
    """``file`` is an absolute path, or None for standard output. ``format`` is ``json`` or ``console``. ``sample`` (0
    to 1) is the share of access lines that are written, ``exclude_paths`` are prefixes of paths without such lines."""

    level: str = "info"
    format: str = "json"
    environment: str = "production"
    file: str | None = None
    sample: float = 1.0
    exclude_paths: tuple[str, ...] = ()

    def needs_restart(self, changed: LoggingSpec) -> bool:
        """Whether ``changed`` differs in what is read at start only."""
        return (self.format, self.environment, self.file) != (changed.format, changed.environment, changed.file)


@dataclass(frozen=True, slots=True)
class OverloadSpec:
    """When a worker has too much to do: ``max_loop_lag`` in seconds, ``max_memory`` in bytes of its own; None: off."""

    max_loop_lag: float | None = 0.25
    max_memory: int | None = None


@dataclass(frozen=True, slots=True)
class TracingSpec:
    """``sample_ratio`` (0 to 1) of new traces are sampled. ``propagation`` holds words of
    ``charon.wire.tracecontext.FORMATS``. ``record``: there is somebody to export spans to."""

    sample_ratio: float = 1.0
    propagation: tuple[str, ...] = ("w3c",)
    record: bool = True


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker does, as of ``generation`` (counts up with every change). ``max_connections`` is of all
    listeners and workers together. ``mark`` is what connections that are opened bear for the kernel's rules, 0: none.
    """

    generation: int
    listeners: tuple[ListenerSpec, ...]
    services: Mapping[str, ServiceSpec]
    materials: dict[str, TlsMaterial] = field(default_factory=dict)
    logging: LoggingSpec = field(default_factory=LoggingSpec)
    drain_timeout: float = 30.0
    max_connections: int | None = None
    overload: OverloadSpec = field(default_factory=OverloadSpec)
    admin_socket: str = ""
    instance_id: str = ""
    mark: int = 0
    tracing: TracingSpec | None = None
