"""A configuration and the services that discovery knows, made into what workers are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from charon.config.load import Config
from charon.config.registry import Target
from charon.config.schema.listener import Listener
from charon.config.schema.routes import Route
from charon.config.snapshot import (
    Limits,
    ListenerSpec,
    LoggingSpec,
    RouteSpec,
    ServiceSpec,
    Snapshot,
    Timeouts,
)


def compile_snapshot(
    config: Config, services: Mapping[str, ServiceSpec], generation: int, instance_id: str
) -> Snapshot:
    """The snapshot of ``config`` with ``services`` as they are resolved now. A service that is named and not among
    them stays a name: its requests are answered with `unknown_service`."""
    root = config.root
    return Snapshot(
        generation=generation,
        listeners=tuple(listener_spec(listener) for listener in config.listeners),
        services={name: replace(spec, load_balancing=_balancing(config, name)) for name, spec in services.items()},
        logging=LoggingSpec(
            level=root.logging.level,
            format=root.logging.format,
            environment=root.logging.environment,
            file=None if config.log_file is None else str(config.log_file),
        ),
        drain_timeout=root.drain_timeout,
        admin_socket=str(config.admin_socket),
        instance_id=instance_id,
    )


def static_targets(config: Config) -> dict[str, tuple[Target, ...]]:
    """The services whose addresses the configuration gives: ``services.*.addresses`` under their names, and each
    ``target_service_addr`` in use under its address (``localhost:9091``)."""
    found = {
        name: tuple(Target(upstream.address) for upstream in dict.fromkeys(service.addresses))
        for name, service in config.root.services.items()
        if "addresses" in service.model_fields_set
    }
    for listener in config.listeners:
        if listener.target_service_name is None and listener.target_service_addr is not None:
            address = listener.target_service_addr.address
            found.setdefault(str(address), (Target(address),))
    return found


def listener_spec(listener: Listener) -> ListenerSpec:
    """One listener as workers see it."""
    default = listener.target_service_name
    if default is None and listener.target_service_addr is not None:
        default = str(listener.target_service_addr.address)
    metrics = listener.protocol != "tcp" and listener.metrics.on_listeners
    return ListenerSpec(
        name=listener.name or str(listener.address),
        address=str(listener.address),
        protocol=listener.protocol,
        routes=_routes(listener.routes),
        default_service=default,
        timeouts=Timeouts(**listener.timeouts.model_dump()),
        limits=Limits(**listener.limits.model_dump()),
        access_log=listener.access_log,
        metrics_path=listener.metrics.path if metrics else None,
        trusted_proxies=listener.trusted_proxies,
    )


def route_name(route: Route) -> str:
    """The label of a route in logs and metrics: what it matches, ``api.example.com/v1``; ``*`` for everything."""
    return f"{route.host or ''}{route.path_prefix or ''}" or "*"


def _routes(routes: tuple[Route, ...]) -> tuple[RouteSpec, ...]:
    specs: list[RouteSpec] = []
    used: dict[str, int] = {}
    for route in routes:
        if route.service is None:
            continue
        name = route_name(route)
        used[name] = used.get(name, 0) + 1
        # Two rules that match the same: only the first is ever taken, yet labels must tell them apart.
        label = name if used[name] == 1 else f"{name}#{used[name]}"
        specs.append(RouteSpec(label, route.service, route.host, route.path_prefix))
    return tuple(specs)


def _balancing(config: Config, name: str) -> str:
    service = config.root.services.get(name)
    if service is not None and "load_balancing" in service.model_fields_set:
        return service.load_balancing
    return config.root.load_balancing
