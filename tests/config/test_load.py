"""config.yaml: what it comes to, and every mistake in it with its line."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charon.base.addresses import Address
from charon.base.errors import ConfigError
from charon.config import files
from charon.config.admin_socket import default_admin_socket
from charon.config.compile import compile_settings
from charon.config.files import find_config
from charon.config.load import load_config, read_config
from charon.config.snapshot import ConcurrencySpec, Limits, OverloadSpec
from tests.config.support import Folder

SHORT = """\
listen_port: "8080"

# Default service (fallback)
target_service_name: "http-backend"
registry_file: "registry.yaml"

# Routing rules (optional)
routes:
  - host: "api.local"
    path_prefix: "/hello"
    service: "http-backend"
  - path_prefix: "/admin"
    service: "admin-backend"
"""

FULL = """\
listen_port: "8080"
target_service_name: "my-backend"
registry_file: "registry.yaml"
routes:
  - host: "api.example.com"
    path_prefix: "/v1"
    service: "api-service"
  - path_prefix: "/users"
    service: "user-service"
circuit_breaker:
  failure_threshold: 5
  open_duration: "30s"
rate_limit:
  requests_per_second: 100
  burst_size: 200
  routes: []  # empty = all routes
logging:
  level: "info"
  format: "json"
  environment: "production"
tracing:
  enabled: false
  jaeger_endpoint: "http://localhost:14268/api/traces"
  service_name: "charon-proxy"
tls:
  enabled: false
  cert_dir: "./certs"
  server_port: "8443"
  upstream_tls: false
"""


def test_the_short_form_is_one_listener_on_all_interfaces(folder: Folder) -> None:
    config = folder.load(SHORT)
    (listener,) = config.listeners
    assert (listener.name, listener.address, listener.protocol) == ("http-8080", Address("", 8080), "http")
    assert listener.target_service_name == "http-backend"
    assert [(r.host, r.path_prefix, r.service) for r in listener.routes] == [
        ("api.local", "/hello", "http-backend"),
        (None, "/admin", "admin-backend"),
    ]
    assert config.registry_file == folder.path / "registry.yaml"


def test_the_full_example_loads(folder: Folder) -> None:
    config = folder.load(FULL)
    root, (listener,) = config.root, config.listeners
    assert (root.circuit_breaker.failure_threshold, root.circuit_breaker.open_duration) == (5, 30)
    assert (listener.rate_limit.requests_per_second, listener.rate_limit.burst_size) == (100, 200)
    assert (listener.rate_limit.routes, listener.rate_limit.key) == ((), "route")
    assert [route.service for route in listener.routes] == ["api-service", "user-service"]


def test_the_defaults(folder: Folder) -> None:
    config = folder.load("target_service_addr: localhost:9091\n")
    root, (listener,) = config.root, config.listeners
    assert listener.address == Address("", 8080)
    assert listener.timeouts.model_dump() == {
        "connect": 5.0,
        "response_headers": 10.0,
        "request": None,
        "idle": 90.0,
        "client_header": 10.0,
        "client_body": 60.0,
        "client_fin": 0.5,
        "tls_handshake": 10,
        "detect": 0.2,
    }
    assert listener.limits.model_dump() == {
        "max_connections": 10_000,
        "max_connections_per_client": None,
        "max_header_bytes": 65_536,
        "max_headers": 128,
        "max_body_bytes": None,
        "min_body_rate": None,
        "max_requests_per_endpoint": None,
        "max_pending": None,
        "pending_timeout": 1.0,
        "adaptive_concurrency": {
            "enabled": False,
            "min_limit": 4,
            "max_limit": 1000,
            "tolerance": 2.0,
            "target_latency": None,
            "remeasure": 30.0,
        },
        "max_total_connections": None,
    }
    assert root.overload.model_dump() == {"max_loop_lag": 0.25, "max_memory": None}
    assert (root.logging.level, root.logging.format, root.logging.environment) == ("info", "json", "production")
    assert (root.logging.access_log, config.log_file) == (True, None)
    assert (root.metrics.path, root.metrics.on_listeners) == ("/metrics", True)
    assert (config.workers, config.drain_timeout, root.trusted_proxies) == (None, 30.0, ())
    assert config.worker_count >= 1
    assert config.registry_file is None


def test_defaults_of_what_comes_later_are_the_documented_ones(folder: Folder) -> None:
    root = folder.load("target_service_addr: a:1").root
    assert (root.tls.cert_dir, root.tls.server_port, root.tls.min_version) == ("./certs", 8443, "1.2")
    assert (root.tracing.service_name, root.tracing.sample_ratio) == ("charon-proxy", 1.0)


def test_every_value_that_is_given_is_used(folder: Folder) -> None:
    config = folder.load(
        """
        listen_port: 0
        protocol: tcp
        target_service_addr: http://[::1]:9091
        timeouts: {connect: 250ms, response_headers: 3, request: 1m, idle: 1h30m, client_header: "5", client_body: 7s,
                   client_fin: 0, tls_handshake: 2s, detect: 3s}
        limits: {max_connections: 7, max_header_bytes: 8KiB, max_headers: 9, max_body_bytes: 10MB, min_body_rate: 1KiB,
                 max_total_connections: 70, adaptive_concurrency: {enabled: true, target_latency: 200ms}}
        overload: {max_loop_lag: none, max_memory: 512MiB}
        logging: {level: WARN, format: console, environment: development, file: logs/c.log, access_log: off}
        metrics: {path: /m, on_listeners: no}
        admin: {socket: run/admin.sock}
        workers: "3"
        drain_timeout: 2s
        trusted_proxies: [10.0.0.0/8, 127.0.0.1, "::1", unix]
        """
    )
    (listener,) = config.listeners
    assert listener.timeouts.model_dump() == {
        "connect": 0.25,
        "response_headers": 3,
        "request": 60,
        "idle": 5400,
        "client_header": 5,
        "client_body": 7,
        "client_fin": 0,
        "tls_handshake": 2,
        "detect": 3,
    }
    compiled = compile_settings(config)
    assert compiled.listeners[0].limits == Limits(7, 8192, 9, 10_000_000, 1024)
    assert compiled.max_connections == 70
    assert compiled.overload == OverloadSpec(None, 512 * 1024**2)
    assert compiled.default_service.concurrency == ConcurrencySpec(target_latency=0.2)
    assert listener.limits.max_body_bytes == 10_000_000
    assert config.root.logging.level == "warning"
    assert config.log_file == folder.path / "logs/c.log"
    assert config.admin_socket == folder.path / "run/admin.sock"
    assert (config.worker_count, config.drain_timeout, listener.access_log) == (3, 2, False)
    assert listener.trusted_proxies == ("10.0.0.0/8", "127.0.0.1/32", "::1/128", "unix")
    assert (listener.name, listener.address.port, listener.metrics.on_listeners) == ("tcp-0", 0, False)


def test_a_listener_overrides_the_top_level_key_by_key(folder: Folder) -> None:
    one, two, three = folder.load(
        """
        target_service_name: top
        timeouts: {connect: 1s, idle: 2s}
        limits: {max_body_bytes: 1MB}
        logging: {access_log: false}
        trusted_proxies: [10.0.0.0/8]
        routes: [{path_prefix: /a, service: a}]
        listeners:
          - {address: ":80"}
          - address: "127.0.0.1:81"
            name: inner
            target_service_addr: localhost:9091
            timeouts: {idle: 3s}
            limits: {max_body_bytes: none}
            access_log: true
            trusted_proxies: []
            routes: []
          - {address: "unix:/run/x.sock", protocol: tcp}
        """
    ).listeners
    assert (one.name, one.target_service_name, one.access_log, len(one.routes)) == ("http-80", "top", False, 1)
    assert (two.timeouts.connect, two.timeouts.idle) == (1, 3)
    assert (two.limits.max_body_bytes, two.access_log, two.trusted_proxies, two.routes) == (None, True, (), ())
    # One of the two targets was given: the other is not inherited, or it would win.
    assert two.target_service_name is None
    assert two.target_service_addr is not None
    assert (three.name, three.target_service_name, three.routes) == ("tcp-x.sock", "top", ())


def test_default_names_stay_apart(folder: Folder) -> None:
    names = [
        listener.name
        for listener in folder.load(
            """
            target_service_addr: a:1
            listeners:
              - {address: "127.0.0.1:80"}
              - {address: "127.0.0.2:80"}
              - {address: ":0"}
              - {address: ":0"}
              - {address: ":0"}
              - {address: ":9", name: http-9}
            """
        ).listeners
    ]
    assert names == ["http-80", "http-127.0.0.2:80", "http-0", "http-:0", "http-0-2", "http-9"]


def test_the_environment_is_read_in_values(folder: Folder) -> None:
    text = "listen_port: ${PORT}\ntarget_service_addr: ${HOST:-backend}:${TO:-9091}\ntimeouts: {idle: '${IDLE:-}'}\n"
    assert folder.problems(text, {"PORT": "81"}) == [
        "3: timeouts.idle: '' is not a duration; write a number and a unit such as 250ms, 30s, 5m or 1h30m; a bare "
        "number is seconds"
    ]
    config = folder.load(text, {"PORT": "81", "HOST": "", "TO": "1"} | {"IDLE": "3s"})
    assert config.listeners[0].address.port == 81
    assert str(config.listeners[0].target_service_addr) == "backend:1"


def test_an_empty_variable_counts_as_not_given(folder: Folder) -> None:
    assert folder.load("target_service_addr: a:1\ndrain_timeout: ${DRAIN:-}").drain_timeout == 30


def test_mistakes_with_variables(folder: Folder) -> None:
    assert folder.problems("target_service_addr: a:1\nlisten_port: ${PORT}\nadmin: {socket: '${A'}\n") == [
        "2: listen_port: the environment variable PORT is not set; set it, or write ${PORT:-default}",
        "3: admin.socket: '${' without a name and '}'; write ${NAME}, ${NAME:-default}, or $${ for the characters",
    ]
    assert folder.load("target_service_addr: a:1\nlogging: {file: 'a$${X}$b'}").log_file == folder.path / "a${X}$b"


def test_all_mistakes_are_reported_at_once(folder: Folder) -> None:
    assert folder.problems(
        """\
listn_port: 80
listen_port: 99999
routes: {a: 1}
timeouts: {connect: banana, idel: 3, request: 0}
protocol: htp
listeners:
  - {adress: ":80", protocol: tcp}
  - protocol: tcp
    address: ":81"
  - address: ":81"
    drain_timeout: 3s
  - 7
level: info
name: x
target_service_name: [a]
services:
  Foo: {addresses: ["ftp://a:1", x]}
trusted_proxies: [10.0.0.1/8, "*"]
workers: 0
limits: {max_header_bytes: 3, max_connections: -1}
logging: {level: verbose, access_log: maybe}
"""
    ) == [
        "1: listn_port: unknown key; did you mean listen_port?",
        "2: listen_port: '99999' is not a port; write a number from 0 to 65535",
        "3: routes: a list is expected here",
        "4: timeouts.connect: 'banana' is not a duration; write a number and a unit such as 250ms, 30s, 5m or 1h30m; "
        "a bare number is seconds",
        "4: timeouts.idel: unknown key; did you mean idle?",
        "4: timeouts.request: '0' is no time at all; write more than 0",
        "5: protocol: 'htp' is not known (did you mean http?); write http, tcp or auto",
        "7: listeners[0].address: this key must be given",
        "7: listeners[0].adress: unknown key; did you mean address?",
        "10: listeners[2].address: the same address is listened on by listeners[1]",
        "11: listeners[2].drain_timeout: unknown key here; it belongs at the top level",
        "12: listeners[3]: a block of keys is expected here, such as protocol, target_service_name, "
        "target_service_addr",
        "13: level: unknown key here; did you mean logging.level?",
        "14: name: unknown key here; it belongs in an entry of listeners",
        "15: target_service_name: a list is given where a name is expected",
        "17: services.Foo.addresses[0]: 'ftp://a:1' is not an address; write host:port, [ipv6]:port, http://host:port "
        "or unix:/path",
        "17: services.Foo.addresses[1]: 'x' is not an address: the port is missing; write host:port, [ipv6]:port, "
        "http://host:port or unix:/path",
        "18: trusted_proxies[0]: '10.0.0.1/8' has address bits to the right of its mask (did you mean 10.0.0.0/8?); "
        "write an address or a network such as 10.0.0.0/8, or unix",
        "18: trusted_proxies[1]: '*' is not a network; write an address or a network such as 10.0.0.0/8, or unix",
        "19: workers: '0' is not allowed; write a number from 1 to 1024, or auto",
        "20: limits.max_connections: '-1' is not allowed; write a whole number from 1 to 10000000",
        "20: limits.max_header_bytes: '3' is not allowed; write at least 1KiB and at most 16MiB",
        "21: logging.access_log: 'maybe' is not a switch; write true or false",
        "21: logging.level: 'verbose' is not known; write debug, info, warning or error",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: the file is empty"),
        ("# nothing\n", "1: the file is empty"),
        ("- a\n- b\n", "1: the file is not a block of keys"),
        ("just text", "1: the file is not a block of keys"),
        ("a:\n\tb: 1\n", "2: not valid YAML: a tab"),
        ("listen_port: 1\n listen_port: 2\n", "2: not valid YAML"),
        (b"a: \x00", "1: the control character U+0000"),
        (b"listen_port: 1\n# \xe9\n", "2: the file is not UTF-8"),
        (b"\xff\xfea\x00", "1: the file is UTF-16"),
        ("listen_port: 1\nlisten_port: 2\n", "2: listen_port: given twice; it is first given on line 1"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_clear_line(folder: Folder, text: str | bytes, problem: str) -> None:
    (found,) = folder.problems(text)
    assert found.startswith(problem)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "none.yaml", {})
    assert refused.value.problems == [f"{tmp_path}/none.yaml: there is no such file"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("protocol: tcp", "1: protocol: a tcp listener needs a target_service_name or a target_service_addr"),
        (
            "protocol: tcp\ntarget_service_addr: a:1\nroutes: [{service: x}]",
            "3: routes[0]: a route of a tcp listener has a sni and a service: other rules are for HTTP",
        ),
        (
            "target_service_addr: a:1\nlisteners:\n- address: :1\n  protocol: tcp\n  routes: [{service: x}]",
            "5: listeners[0].routes[0]: a route of a tcp listener has a sni and a service: other rules are for HTTP",
        ),
        (
            "target_service_addr: a:1\nroutes: [{sni: a.test, service: x}]",
            "2: routes[0].sni: it is for tcp and auto listeners, and http-8080 is neither; give host",
        ),
        (
            "protocol: tcp\nroutes: [{sni: a.test, service: x, path: /x}]",
            "2: routes[0].path: a route by sni sees nothing but the server name; it has a service and nothing else",
        ),
        (
            "protocol: tcp\nroutes: [{sni: a.test}]",
            "2: routes[0]: the route has no service",
        ),
        (
            "protocol: tcp\ntls: {enabled: true}\nroutes: [{sni: a.test, service: x}]",
            "3: routes: TLS that ends at the listener (tcp-8443) is not routed by sni; give tls.enabled: false",
        ),
        ("listeners: []", "1: listeners: there is no listener; give at least one, or listen_port"),
        (
            "listen_port: 1\nlisteners: [{address: ':2'}]",
            "1: listen_port: not used together with listeners; give the port an entry there",
        ),
        (
            "listeners:\n- {address: ':1', name: a}\n- {address: ':2', name: a}",
            "3: listeners[1].name: the same name is given to listeners[0]",
        ),
        (
            "listeners:\n- {address: ':1'}\n- {address: '0.0.0.0:1'}",
            "3: listeners[1].address: the same address is listened on by listeners[0]",
        ),
        ("routes:\n- path_prefix: /a", "2: routes[0]: the route has no service"),
        (
            "registry_file: none\ntarget_service_name: foo\nservices: {food: {addresses: [a:1]}}",
            "2: target_service_name: there is no service 'foo' (did you mean food?); give it addresses under services, "
            "or give a registry_file",
        ),
        (
            "registry_file:\nroutes:\n- service: x",
            "3: routes[0].service: there is no service 'x'; give it addresses under services, or give a registry_file",
        ),
        ("services: {a: {addresses: []}}", "1: services.a.addresses: the list is empty; give at least one address"),
        ("admin: {socket: /" + "x" * 120 + "}", "1: admin.socket: the path of a Unix socket has at most 107 bytes"),
        ("services: {'a b': {}}", "1: services.'a b': 'a b' is not a name; at most 200 characters, no spaces"),
    ],
)
def test_keys_that_do_not_go_together(folder: Folder, text: str, problem: str) -> None:
    assert folder.problems(text) == [problem]


@pytest.mark.parametrize(
    "text",
    [
        "protocol: tcp\ntarget_service_addr: banana",
        "protocol: tcp\ntarget_service_addr: ${NOT_SET}",
        "listeners: [{address: banana}]",
        "listeners: 7",
        "routes: [{service: [a]}]",
        "registry_file: none\ntarget_service_name: x\nservices: {x: {addresses: [banana]}}",
        "registry_file: none\ntarget_service_name: x\nservices: {x: 7}",
        "registry_file: [a]\ntarget_service_name: x",
    ],
)
def test_nothing_is_concluded_from_what_could_not_be_read(folder: Folder, text: str) -> None:
    assert len(folder.problems(text)) == 1


def test_mistakes_behind_mistakes_have_the_right_line(folder: Folder) -> None:
    assert folder.problems("listeners:\n- 5\n- address: ':1'\n  protocol: tcp\n- address: ':1'\n- {address: x}") == [
        "2: listeners[0]: a block of keys is expected here, such as protocol, target_service_name, target_service_addr",
        "3: listeners[1]: a tcp listener needs a target_service_name or a target_service_addr",
        "5: listeners[2].address: the same address is listened on by listeners[1]",
        "6: listeners[3].address: 'x' is not an address: the port is missing; write :port, ip:port, [ipv6]:port or "
        "unix:/path",
    ]


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ("host: 'a:80'", "host: 'a:80' has a port; write the host alone, the port of a request is ignored"),
        ("host: '*'", "host: '*' is not a host; write a name such as api.example.com, or *.example.com"),
        ("host: 'a.*.b'", "host: 'a.*.b' is not a host; write a name such as api.example.com, or *.example.com"),
        ("host: '[::g]'", "host: '[::g]' is not a host; write a name such as api.example.com, or *.example.com"),
        ("path_prefix: admin", "path_prefix: 'admin' is not a path; it begins with '/'"),
        ("path_prefix: /a/../b", "path_prefix: '/a/../b' has '.' or '..' in it; write the path they lead to"),
        ("path_prefix: '/a?b'", "path_prefix: '/a?b' is not a path"),
        ("path_prefix: /%61dmin", "path_prefix: '/%61dmin' has %61 in it; write the character itself"),
        ("path_prefix: /a%2", "path_prefix: '/a%2' is not a path; '%' is followed by two hex digits"),
    ],
)
def test_what_a_route_cannot_match(folder: Folder, route: str, problem: str) -> None:
    (found,) = folder.problems(f"routes: [{{service: a, {route}}}]")
    assert found.startswith(f"1: routes[0].{problem}")


def test_hosts_of_routes_are_compared_in_lower_case(folder: Folder) -> None:
    text = "routes: [{service: a, host: API.Example.COM.}, {service: a, host: '*.B.c'}, {service: a, host: '[::0:1]'}]"
    assert [r.host for r in folder.load(text).root.routes] == ["api.example.com", "*.b.c", "[::1]"]


def test_paths_are_kept_as_they_are_compared(folder: Folder) -> None:
    config = folder.load("routes: [{service: a, path_prefix: /caf%c3%a9/A}]")
    assert config.root.routes[0].path_prefix == "/caf%C3%A9/A"


def test_names_that_yaml_would_take_for_something_else_stay_names(folder: Folder) -> None:
    config = folder.load("routes: [{service: no}, {service: 1e3}, {service: 0x1f}, {service: Null-Service}]")
    assert [r.service for r in config.root.routes] == ["no", "1e3", "0x1f", "Null-Service"]


def test_the_registry_is_needed_only_where_a_service_has_no_addresses(folder: Folder) -> None:
    static = "services: {a: {addresses: [x:1]}}\n"
    assert folder.load(static + "target_service_name: a").registry_file is None
    assert folder.load(static + "target_service_name: b").registry_file == folder.path / "registry.yaml"
    assert folder.load("target_service_name: b\nregistry_file: /x/r.yaml").registry_file == Path("/x/r.yaml")
    both = folder.load("target_service_name: b\ntarget_service_addr: a:1")
    assert both.listeners[0].target_service_name == "b"


def test_keys_with_nothing_behind_them_count_as_not_given(folder: Folder) -> None:
    config = folder.load("target_service_addr: a:1\nroutes:\ntimeouts:\n  idle:\nlisteners:\n")
    assert config.listeners[0].timeouts.idle == 90


def test_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "DEFAULT_FILES", (tmp_path / "etc.yaml", Path("config.yaml")))
    assert find_config("given") == Path("given")
    with pytest.raises(ConfigError, match="--config FILE"):
        find_config(None)
    Path("config.yaml").touch()
    assert find_config(None) == Path("config.yaml")
    (tmp_path / "etc.yaml").touch()
    assert find_config(None) == tmp_path / "etc.yaml"


def test_the_admin_socket_of_a_user_without_rights_is_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert default_admin_socket({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/charon/admin.sock")
    monkeypatch.setattr(os, "getuid", lambda: 7)
    assert default_admin_socket({}) == Path("/tmp/charon-7/admin.sock")
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert default_admin_socket({}) == Path("/run/charon/admin.sock")


_KEYS = st.sampled_from(
    ("listen_port", "routes", "listeners", "services", "timeouts", "tls", "address")
    + ("host", "service", "addresses", "idle", "x", "protocol")
)
_VALUES = st.recursive(
    st.none() | st.sampled_from(["", "tcp", "none", ":80", "5", "a", "{}", "${X}", "/a", "a:1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_any_file_is_a_configuration_or_mistakes(folder: Folder, value: dict[str, object]) -> None:
    import json

    folder.file.write_text(json.dumps(value))
    reading = read_config(folder.file, {})
    assert (reading.config is None) == bool(reading.problems)
