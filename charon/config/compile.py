"""A validated configuration, made into the plain values that the supervisor and the workers live by."""

from __future__ import annotations

from charon.config.load import Config
from charon.config.registry import Target
from charon.config.schema.listener import Listener
from charon.config.schema.routes import Route
from charon.config.settings import Settings
from charon.config.snapshot import (
    Limits,
    ListenerSpec,
    LoggingSpec,
    RouteSpec,
    Timeouts,
)


def compile_settings(config: Config) -> Settings:
    """``config`` as the plain values that the supervisor lives by."""
    root = config.root
    return Settings(
        file=str(config.file),
        listeners=tuple(listener_spec(listener) for listener in config.listeners),
        static_services=static_targets(config),
        default_balancing=root.load_balancing,
        load_balancing={
            name: service.load_balancing
            for name, service in root.services.items()
            if "load_balancing" in service.model_fields_set
        },
        registry_file=None if config.registry_file is None else str(config.registry_file),
        admin_socket=str(config.admin_socket),
        metrics_path=root.metrics.path,
        logging=LoggingSpec(
            level=root.logging.level,
            format=root.logging.format,
            environment=root.logging.environment,
            file=None if config.log_file is None else str(config.log_file),
        ),
        workers=config.worker_count,
        drain_timeout=root.drain_timeout,
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
