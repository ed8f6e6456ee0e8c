"""What workers are told to do: one immutable, complete description.

The supervisor builds a :class:`Snapshot` from configuration and discovery and sends it down the channel; a worker
swaps one reference, and a request keeps the snapshot it started with. Plain values only: a worker never imports the
schema. Times are seconds, sizes are bytes; ``None`` means "no limit" wherever it is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where to connect: ``host`` is a literal IP address, or a path when ``port`` is 0 (a Unix socket)."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        return self.port == 0


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One endpoint of a service.

    ``name`` is its label in logs and metrics (``localhost:9091``, or ``10.0.0.5:80`` where a name has several
    addresses). ``candidates`` are tried in order within one connect timeout (``localhost`` over IPv4, then IPv6).
    """

    name: str
    candidates: tuple[SocketAddress, ...]
    weight: int = 1


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A named set of endpoints. ``known`` is false when the registry does not (or no longer) hold the name."""

    name: str
    endpoints: tuple[EndpointSpec, ...]
    load_balancing: str = "round_robin"
    known: bool = True


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One rule. ``name`` is its stable label in logs and metrics."""

    name: str
    service: str
    host: str | None = None
    path_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds.

    ``connect``: one upstream connection, all candidates together. ``response_headers``: from the last byte of the
    request to the head of the final response. ``request``: the whole exchange. ``idle``: a connection, or a body in
    either direction, with no byte moving. ``client_header``: from the first byte of a request head to its last.
    ``client_fin``: how long an unanswered request goes on after its client closed its sending side.
    """

    connect: float = 5.0
    response_headers: float = 10.0
    request: float | None = None
    idle: float = 90.0
    client_header: float = 10.0
    client_fin: float = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds per listener; ``max_requests_per_endpoint`` is per worker process."""

    max_connections: int = 10_000
    max_header_bytes: int = 65_536
    max_headers: int = 128
    max_body_bytes: int | None = None
    max_requests_per_endpoint: int | None = None


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """One listening address and what is done with its connections.

    ``address`` is as configured (``:8080``, ``127.0.0.1:8080``, ``[::]:8080``, ``unix:/path``). ``default_service``
    is used where no route matches. ``metrics_path`` is None where metrics are not answered on this listener.
    """

    name: str
    address: str
    protocol: str
    routes: tuple[RouteSpec, ...] = ()
    default_service: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    access_log: bool = True
    metrics_path: str | None = None
    trusted_proxies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoggingSpec:
    """``file`` is an absolute path, or None for standard output. ``format`` is ``json`` or ``console``."""

    level: str = "info"
    format: str = "json"
    environment: str = "production"
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker does, as of ``generation`` (counts up with every change)."""

    generation: int
    listeners: tuple[ListenerSpec, ...]
    services: dict[str, ServiceSpec]
    logging: LoggingSpec = field(default_factory=LoggingSpec)
    drain_timeout: float = 30.0
    admin_socket: str = ""
    instance_id: str = ""
