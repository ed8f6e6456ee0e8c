"""A validated configuration, made into the plain values that the supervisor and the workers live by."""

from __future__ import annotations

import pickle
from dataclasses import replace
from hashlib import blake2b

from charon.base.addresses import Upstream
from charon.config.compile_intercept import direction, intercept_spec, opaque_ports
from charon.config.compile_routes import route_specs
from charon.config.compile_services import rate_limit_spec, service_spec
from charon.config.compile_tls import Materials, access_spec, server_tls, upstream_tls
from charon.config.effective import effective_json
from charon.config.load import Config
from charon.config.registry import Target
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root
from charon.config.settings import AdminSpec, ExportSpec, Settings
from charon.config.snapshot import (
    Limits,
    ListenerSpec,
    LoggingSpec,
    OverloadSpec,
    ServiceSpec,
    Timeouts,
    TracingSpec,
)


def compile_settings(config: Config) -> Settings:
    """``config`` as the plain values that the supervisor lives by."""
    root = config.root
    materials = Materials()
    settings = Settings(
        file=str(config.file),
        listeners=listener_specs(config, materials),
        static_services=static_targets(config),
        default_service=service_spec(root),
        service_settings=_service_settings(root),
        registry_file=None if config.registry_file is None else str(config.registry_file),
        admin_socket=str(config.admin_socket),
        logging=LoggingSpec(
            level=root.logging.level,
            format=root.logging.format,
            environment=root.logging.environment,
            file=None if config.log_file is None else str(config.log_file),
            sample=root.logging.sample,
            exclude_paths=root.logging.exclude_paths,
        ),
        workers=config.worker_count,
        drain_timeout=root.drain_timeout,
        upstream_tls=upstream_tls(root, config.listeners, config.folder, materials),
        certificates=materials.sources,
        worker_timeout=root.worker_timeout,
        intercept=intercept_spec(root),
        reload_on_change=root.reload_on_change,
        digest="",
        max_connections=root.limits.max_total_connections,
        overload=OverloadSpec(**root.overload.model_dump()),
        admin=_admin_spec(config),
        tracing=_tracing(root),
        export=_export(config),
    )
    digest = blake2b(pickle.dumps(settings), digest_size=6).hexdigest()
    return replace(settings, digest=digest, effective=effective_json(config))


def _admin_spec(config: Config) -> AdminSpec:
    admin = config.root.admin
    return AdminSpec(
        address=None if admin.address is None else str(admin.address),
        read_token_file=None if config.read_token_file is None else str(config.read_token_file),
        write_token_file=None if config.write_token_file is None else str(config.write_token_file),
        group_may_write=admin.group_may_write,
    )


def _tracing(root: Root) -> TracingSpec | None:
    tracing = root.tracing
    if not tracing.enabled:
        return None
    return TracingSpec(tracing.sample_ratio, tracing.propagation, tracing.exports)


def _export(config: Config) -> ExportSpec | None:
    tracing = config.root.tracing
    if not tracing.enabled or not tracing.exports:
        return None
    return ExportSpec(
        service_name=tracing.service_name,
        jaeger_endpoint=tracing.jaeger_endpoint,
        otlp_endpoint=tracing.otlp_endpoint,
        otlp_headers=tuple(tracing.otlp_headers.items()),
        ca_file=None if tracing.ca_file is None else str(config.file.parent / tracing.ca_file),
    )


def static_targets(config: Config) -> dict[str, tuple[Target, ...]]:
    """The services whose addresses the configuration gives: ``services.*.addresses`` under their names, and each
    ``target_service_addr`` in use under its address (``localhost:9091``, ``https://localhost:9443``)."""
    found = {
        name: tuple(_target(upstream) for upstream in dict.fromkeys(service.addresses))
        for name, service in config.root.services.items()
        if "addresses" in service.model_fields_set
    }
    for listener in config.listeners:
        if listener.target_service_name is None and listener.target_service_addr is not None:
            upstream = listener.target_service_addr
            found.setdefault(_static_name(upstream), (_target(upstream),))
    return found


def _target(upstream: Upstream) -> Target:
    return Target(upstream.address, tls=upstream.scheme == "https")


def _static_name(upstream: Upstream) -> str:
    """The service that is only an address; one that is spoken TLS to is another one."""
    return str(upstream) if upstream.scheme == "https" else str(upstream.address)


def _service_settings(root: Root) -> dict[str, ServiceSpec]:
    default = service_spec(root)
    specs = {name: service_spec(root, name) for name in root.services}
    return {name: spec for name, spec in specs.items() if replace(spec, name=default.name) != default}


def listener_specs(config: Config, materials: Materials) -> tuple[ListenerSpec, ...]:
    """The listeners as workers see them; ``materials`` learns which they need. No two rate limits of them have the same
    name."""
    taken = {_name(listener) for listener in config.listeners}
    return tuple(_listener_spec(config, listener, taken, materials) for listener in config.listeners)


def _name(listener: Listener) -> str:
    return listener.name or str(listener.address)


def _listener_spec(config: Config, listener: Listener, taken: set[str], materials: Materials) -> ListenerSpec:
    default = listener.target_service_name
    if default is None and listener.target_service_addr is not None:
        default = _static_name(listener.target_service_addr)
    metrics = listener.protocol != "tcp" and listener.metrics.on_listeners and not listener.original_destination
    limits, rate_limit = listener.limits, listener.rate_limit
    return ListenerSpec(
        name=_name(listener),
        address=str(listener.address),
        protocol=listener.protocol,
        routes=route_specs(config.root, listener.routes, _name(listener), taken),
        default_service=default,
        timeouts=Timeouts(**listener.timeouts.model_dump()),
        limits=Limits(
            max_connections=limits.max_connections,
            max_header_bytes=limits.max_header_bytes,
            max_headers=limits.max_headers,
            max_body_bytes=limits.max_body_bytes,
            min_body_rate=limits.min_body_rate,
        ),
        access_log=listener.access_log,
        request_id=listener.request_id and listener.protocol != "tcp",
        rate_limit=rate_limit_spec(_name(listener), rate_limit, rate_limit.routes),
        max_connections_per_client=limits.max_connections_per_client,
        metrics_path=listener.metrics.path if metrics else None,
        trusted_proxies=listener.trusted_proxies,
        tls=server_tls(listener, config.folder, materials),
        access=access_spec(listener.access, listener.tls),
        direction=direction(config.root, listener),
        passthrough=listener.passthrough == "allow",
        opaque_ports=opaque_ports(listener),
        accept_proxy=listener.proxy_protocol.accept,
    )
