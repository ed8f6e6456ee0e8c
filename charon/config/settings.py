"""A configuration without mistakes, as plain values: what the supervisor lives by.

Reading and checking a configuration takes a schema library that would hold a third of the supervisor's memory for a
few milliseconds of use, and its loop for as long. So it is done in a process of its own (:mod:`charon.config.reader`),
which hands back a :class:`Settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from charon.config.certificates import MaterialSource, UpstreamTls, with_public
from charon.config.interception import InterceptSpec
from charon.config.registry import Target
from charon.config.snapshot import (
    EndpointSpec,
    ListenerSpec,
    LoggingSpec,
    OverloadSpec,
    ServiceSpec,
    Snapshot,
    TlsMaterial,
    TracingSpec,
)

Treat = Callable[[str, tuple[EndpointSpec, ...], int], ServiceSpec]

_RESTART = {"workers": "workers", "admin.socket": "admin_socket", "admin": "admin"}
"""Keys that are read at start only, and the fields that hold them."""


@dataclass(frozen=True, slots=True)
class AdminSpec:
    """Who may do what over the admin API. ``address`` is as configured, None for no TCP; the token files are absolute
    paths."""

    address: str | None = None
    read_token_file: str | None = None
    write_token_file: str | None = None
    group_may_write: bool = False


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """Where spans go: URLs, None where there is no such collector. ``otlp_headers`` may hold secrets. ``ca_file`` is
    absolute, None for the system's authorities."""

    service_name: str
    jaeger_endpoint: str | None = None
    otlp_endpoint: str | None = None
    otlp_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """``file`` is where it was read from; all paths are absolute, ``registry_file`` is None where none is used.

    ``static_services`` are those whose addresses the configuration gives. ``service_settings`` holds the services that
    are treated otherwise than ``default_service``; both are specs without endpoints. ``digest`` tells one text of the
    file from another. ``workers`` is a number; ``drain_timeout`` and ``worker_timeout`` are in seconds;
    ``max_connections`` is of all listeners together. ``certificates`` are the sources of ``Snapshot.materials``, by
    name. ``intercept`` is None where it is off, and so is ``tracing``; ``export`` is None where there is nobody to
    export spans to. ``effective`` is the whole configuration as JSON, with all defaults and without secrets.
    """

    file: str
    listeners: tuple[ListenerSpec, ...]
    static_services: Mapping[str, tuple[Target, ...]]
    default_service: ServiceSpec
    service_settings: Mapping[str, ServiceSpec]
    registry_file: str | None
    admin_socket: str
    logging: LoggingSpec
    workers: int
    drain_timeout: float
    worker_timeout: float
    reload_on_change: bool
    digest: str
    upstream_tls: UpstreamTls = field(default_factory=UpstreamTls)
    certificates: Mapping[str, MaterialSource] = field(default_factory=dict)
    intercept: InterceptSpec | None = None
    max_connections: int | None = None
    overload: OverloadSpec = field(default_factory=OverloadSpec)
    admin: AdminSpec = AdminSpec()
    effective: bytes = b"{}"
    tracing: TracingSpec | None = None
    export: ExportSpec | None = None

    def needs_restart(self, changed: Settings) -> tuple[str, ...]:
        """The keys of ``changed`` that differ and cannot be put in force while Charon runs."""
        found = [key for key, field in _RESTART.items() if getattr(self, field) != getattr(changed, field)]
        if self.logging.needs_restart(changed.logging):
            found.append("logging")
        return tuple(found)

    def keeping(self, before: Settings, keys: tuple[str, ...]) -> Settings:
        """These settings, with those of ``before`` for ``keys``."""
        kept = {_RESTART[key]: getattr(before, _RESTART[key]) for key in keys if key in _RESTART}
        if "logging" in keys:
            old = before.logging
            kept["logging"] = replace(self.logging, format=old.format, environment=old.environment, file=old.file)
        return replace(self, **kept)

    def snapshot(
        self,
        services: Mapping[str, ServiceSpec],
        generation: int,
        instance_id: str,
        materials: Mapping[str, TlsMaterial] | None = None,
    ) -> Snapshot:
        """What workers are told, with ``services`` as :meth:`treating` makes them, and ``materials`` for
        ``certificates``. A service that is named and not among them stays a name: its requests are answered with
        `unknown_service`."""
        return Snapshot(
            generation=generation,
            listeners=self.listeners,
            services=services,
            logging=self.logging,
            drain_timeout=self.drain_timeout,
            max_connections=self.max_connections,
            overload=self.overload,
            admin_socket=self.admin_socket,
            instance_id=instance_id,
            materials=with_public(materials or {}),
            mark=0 if self.intercept is None else self.intercept.mark,
            tracing=self.tracing,
        )

    def treating(self) -> Treat:
        """What makes a service of a name, the endpoints that were found, and a row: with the settings meant for it."""
        own = {name: spec.treatment() for name, spec in self.service_settings.items()}
        default = self.default_service.treatment()

        def treat(name: str, endpoints: tuple[EndpointSpec, ...], row: int) -> ServiceSpec:
            tls = self.upstream_tls.of(name, https=bool(endpoints) and endpoints[0].https)
            return ServiceSpec(name=name, endpoints=endpoints, row=row, **(own.get(name, default) | {"tls": tls}))

        return treat
