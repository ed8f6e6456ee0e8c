"""What the schema knows and this version cannot do is refused by name, unless it is switched off."""

import pytest

from charon.config import availability
from charon.config.availability import NOT_YET
from charon.config.schema.shape import EVERYWHERE, block_at
from tests.config.support import Folder

TARGET = "target_service_addr: a:1\n"

REFUSED = [
    ("circuit_breaker", "{}"),
    ("circuit_breaker", "{failure_threshold: 5, open_duration: 30s}"),
    ("rate_limit", "{requests_per_second: 1}"),
    ("health_check", "{type: tcp}"),
    ("load_balancing", "least_request"),
    ("retry", "{}"),
    ("retry", "{attempts: 1}"),
    ("tracing", "{enabled: true}"),
    ("tls", "{enabled: yes}"),
    ("intercept", "{enabled: true}"),
    ("protocol", "auto"),
    ("limits.max_requests_per_endpoint", "5"),
    ("admin.address", "127.0.0.1:1"),
    ("services.x.timeouts", "{idle: 1s}"),
    ("services.x.circuit_breaker", "{}"),
    ("services.x.load_balancing", "random"),
    ("listeners[0].tls", "{enabled: true, allowed_identities: [a]}"),
    ("listeners[0].health_check", "{}"),
    ("listeners[0].routes[0].path", "/a"),
    ("routes[0].path_regex", "a+"),
    ("routes[0].methods", "[GET]"),
    ("routes[0].headers", "{a: b}"),
    ("routes[0].timeout", "1s"),
    ("routes[0].retry", "{attempts: 2}"),
    ("routes[0].rate_limit", "{requests_per_second: 3}"),
    ("routes[0].rewrite", "{path_prefix: /b}"),
    ("routes[0].request_headers", "{set: {a: b}}"),
    ("routes[0].response_headers", "{remove: [a]}"),
    ("routes[0].redirect", "{path: /b}"),
    ("routes[0].services", "{a: 1, b: 2}"),
]

OFF = [
    ("rate_limit", "{requests_per_second: 0, burst_size: 200, routes: []}"),
    ("rate_limit", "{}"),
    ("load_balancing", "round_robin"),
    ("retry", "{attempts: 0, backoff: 1s}"),
    ("tracing", "{enabled: false, jaeger_endpoint: 'http://localhost:14268/api/traces', service_name: x}"),
    ("tls", "{enabled: false, cert_dir: ./certs, server_port: '8443', upstream_tls: false}"),
    ("tls", "{}"),
    ("intercept", "{enabled: off}"),
    ("protocol", "http"),
    ("limits.max_requests_per_endpoint", "none"),
    ("admin.address", "none"),
    ("services.x.retry", "{attempts: 0}"),
    ("listeners[0].tls", "{enabled: false}"),
    ("routes[0].methods", "[]"),
    ("routes[0].timeout", "none"),
    ("routes[0].retry", "{attempts: 0}"),
]


def text_with(key: str, value: str) -> str:
    """A configuration that is otherwise fine, with ``key`` in it."""
    text = f"{key.rpartition('.')[2]}: {value}"
    for step in reversed(key.split(".")[:-1]):
        if step.endswith("[0]"):
            more = {"routes[0]": "service: s, ", "listeners[0]": "address: ':1', "}[step]
            text = f"{step[:-3]}: [{{{more}{text}}}]"
        else:
            text = f"{step}: {{{text}}}"
    return TARGET + text


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_a_feature_that_comes_later_is_refused_by_name(folder: Folder, key: str, value: str) -> None:
    assert folder.problems(text_with(key, value)) == [f"2: {key}: not available in this version"]


@pytest.mark.parametrize(("key", "value"), OFF)
def test_a_feature_that_is_switched_off_is_accepted(folder: Folder, key: str, value: str) -> None:
    assert folder.problems(text_with(key, value)) == []


def test_tls_to_endpoints_without_tls_is_refused(folder: Folder) -> None:
    assert folder.problems(TARGET + "tls: {enabled: false, upstream_tls: true}") == [
        "2: tls.upstream_tls: not available in this version"
    ]


@pytest.mark.parametrize("later", NOT_YET, ids=lambda later: later.key)
def test_every_entry_names_a_key_of_the_schema_and_is_tried_above(later: availability.Later) -> None:
    path = later.key.split(".")
    block = block_at(tuple(EVERYWHERE if step == "*" else step for step in path[:-1]))
    assert block is not None
    assert path[-1] in block.model_fields
    end = later.key.replace(".*.", "[0].").replace("services[0]", "services.x")
    assert any(key.endswith(end) for key, _ in REFUSED) or later.key == "tls.upstream_tls"


def test_a_feature_lands_by_deleting_its_line(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {key: later for key, later in availability._BY_KEY.items() if key != "circuit_breaker"}
    monkeypatch.setattr(availability, "_BY_KEY", rest)
    config = folder.load(TARGET + "circuit_breaker: {failure_threshold: 5}\nservices: {x: {circuit_breaker: {}}}")
    assert config.listeners[0].circuit_breaker.failure_threshold == 5


def test_a_service_may_be_named_like_a_key(folder: Folder) -> None:
    text = TARGET + "services: {tls: {addresses: [a:1]}, routes: {timeouts: {}}, circuit_breaker: {addresses: [a:1]}}"
    assert folder.problems(text) == ["2: services.routes.timeouts: not available in this version"]
