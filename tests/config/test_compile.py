"""A configuration and services, made into what workers are told."""

import pickle
from dataclasses import replace

from charon.base.addresses import Address
from charon.config.compile import compile_settings, static_targets
from charon.config.registry import Target
from charon.config.snapshot import (
    BreakerSpec,
    EndpointSpec,
    HealthCheckSpec,
    Limits,
    ListenerSpec,
    LoggingSpec,
    PassiveSpec,
    RouteSpec,
    ServiceSpec,
    SocketAddress,
    Timeouts,
)
from tests.config.support import Folder

SPEC = ServiceSpec("a", (EndpointSpec("localhost:1", (SocketAddress("127.0.0.1", 1),)),))


def test_a_snapshot_holds_everything_a_worker_needs(folder: Folder) -> None:
    config = folder.load(
        """
        listen_port: 8081
        target_service_name: a
        routes:
          - {host: api.example.com, path_prefix: /v1, service: A}
          - {path_prefix: /users, service: b}
          - {host: "*.example.com", service: b}
          - {service: b}
          - {path_prefix: /users, service: c}
        timeouts: {request: 20s, client_fin: 1s}
        limits: {max_body_bytes: 1MB}
        trusted_proxies: [10.0.0.0/8]
        logging: {level: debug, file: c.log}
        admin: {socket: a.sock}
        drain_timeout: 3
        """
    )
    settings = compile_settings(config)
    snapshot = settings.snapshot({"a": settings.treating()("a", SPEC.endpoints, -1)}, 7, "me")
    assert snapshot.listeners == (
        ListenerSpec(
            name="http-8081",
            address=":8081",
            protocol="http",
            routes=(
                RouteSpec("api.example.com/v1", "A", "api.example.com", "/v1"),
                RouteSpec("/users", "b", None, "/users"),
                RouteSpec("*.example.com", "b", "*.example.com", None),
                RouteSpec("*", "b"),
                RouteSpec("/users#2", "c", None, "/users"),
            ),
            default_service="a",
            timeouts=Timeouts(request=20.0, client_fin=1.0),
            limits=Limits(max_body_bytes=1_000_000),
            access_log=True,
            metrics_path="/metrics",
            trusted_proxies=("10.0.0.0/8",),
        ),
    )
    on = ServiceSpec("a", (), breaker=BreakerSpec(), health_check=HealthCheckSpec(), passive=PassiveSpec())
    assert snapshot.services == {"a": replace(on, endpoints=SPEC.endpoints)}
    assert snapshot.logging == LoggingSpec(level="debug", file=str(folder.path / "c.log"))
    assert (snapshot.generation, snapshot.instance_id, snapshot.drain_timeout) == (7, "me", 3.0)
    assert snapshot.admin_socket == str(folder.path / "a.sock")
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


def test_the_defaults_are_those_of_the_snapshot(folder: Folder) -> None:
    (listener,) = compile_settings(folder.load("target_service_addr: a:1")).listeners
    assert listener.timeouts == Timeouts()
    assert listener.limits == Limits()


def test_static_addresses_become_services(folder: Folder) -> None:
    config = folder.load(
        """
        target_service_addr: http://localhost:9091
        services: {s: {addresses: ["a:1", "[::1]:2", "a:1"]}, only-settings: {}}
        listeners:
          - {address: ":1"}
          - {address: ":2", target_service_addr: "unix:/run/x.sock", protocol: tcp}
          - {address: ":3", target_service_name: s, target_service_addr: "never:1"}
        """
    )
    assert static_targets(config) == {
        "s": (Target(Address("a", 1)), Target(Address("::1", 2))),
        "localhost:9091": (Target(Address("localhost", 9091)),),
        "unix:/run/x.sock": (Target(Address("/run/x.sock", 0)),),
    }
    listeners = compile_settings(config).listeners
    assert [spec.default_service for spec in listeners] == ["localhost:9091", "unix:/run/x.sock", "s"]


def test_metrics_are_answered_where_they_are_wanted(folder: Folder) -> None:
    config = folder.load(
        """
        target_service_addr: a:1
        metrics: {path: /m}
        listeners:
          - {address: ":1"}
          - {address: ":2", metrics: {on_listeners: false}}
          - {address: ":3", protocol: tcp}
        """
    )
    paths = [spec.metrics_path for spec in compile_settings(config).listeners]
    assert paths == ["/m", None, None]
