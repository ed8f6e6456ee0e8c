"""What `charon check` accepts, workers can compile: no value gets through that would raise in the data plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from charon.base.errors import RATE_LIMITED, ExchangeFailed
from charon.base.route_rules import RETRY_CONDITIONS
from charon.config.compile import compile_settings
from charon.config.load import read_config
from charon.config.settings import Settings
from charon.config.snapshot import EndpointSpec, ServiceSpec, SocketAddress
from charon.policy.retry import RetryPolicy
from charon.proxy.exchange import Exchange
from charon.proxy.listener import Listener
from charon.proxy.route import Route
from charon.proxy.service import Service
from charon.proxy.sharing import Sharing
from charon.proxy.stages import limit_rate
from charon.shared.limiter import Limiter
from charon.shared.table import SharedTable
from charon.telemetry.events import EventLog
from charon.telemetry.ledger import Ledger
from charon.telemetry.metrics import WorkerMetrics
from charon.telemetry.sink import LogSink
from charon.wire.messages import HeadLimits, parse_request

ENDPOINTS = tuple(
    EndpointSpec(f"10.0.0.{index}:80", (SocketAddress(f"10.0.0.{index}", 80),), weight, index)
    for index, weight in enumerate((1, 3, 65535))
)
REQUEST = b"GET /a/b%2Fc?d=e HTTP/1.1\r\nHost: h\r\nX-A: b\r\nCookie: a=b\r\n\r\n"


class DataPlane:
    """As much of a worker as compiles a snapshot."""

    def __init__(self, folder: Path) -> None:
        self.sink = LogSink(str(folder / "log"))
        table = SharedTable.create(1)
        self.sharing = Sharing(table, 0, b"secret", WorkerMetrics(Ledger.create()), EventLog(self.sink))

    def compile(self, found: Settings) -> None:
        """Everything that a worker makes of a snapshot, and what its rules then do with a request."""
        for spec in found.listeners:
            listener = Listener(spec, self.sharing.buckets)
            for route in [*(Route(each, self.sharing.buckets) for each in spec.routes), listener.default]:
                use(route, listener)
            listener.timeouts_for(found.default_service.timeouts, 1.0)
            if listener.limiter is not None:
                take_all(listener.limiter, listener)
        for service in (found.default_service, *found.service_settings.values()):
            self.choose(replace(service, name="s", endpoints=ENDPOINTS, row=0))

    def choose(self, spec: ServiceSpec) -> None:
        service = Service(spec, self.sharing)
        endpoint, trial = service.choose((), 7)
        assert endpoint in service.endpoints and not trial
        service.done(endpoint)


def use(route: Route, listener: Listener) -> None:
    parsed = parse_request(REQUEST, HeadLimits())
    assert parsed is not None
    head, _ = parsed
    if route.rewrite is not None:
        assert route.rewrite.target(b"/a/b%2Fc", b"?d=e").startswith(b"/")
    if route.redirect is not None:
        assert route.redirect.location(b"http", b"h", b"/a", b"").isascii()
    for edits in (route.request_edits, route.response_edits):
        if edits is not None:
            edits.apply(head.fields)
    if route.split is not None:
        service, cookie = route.split.assign(head.fields, 0.5)
        assert service and (cookie is None or cookie.startswith(b"charon-"))
    if route.limiter is not None:
        take_all(route.limiter, listener)


def take_all(limiter: Limiter, listener: Listener) -> None:
    """A request that passes, and one that does not (the bucket's burst allowing), with the answer's fields."""
    for _ in range(2):
        try:
            limit_rate(limiter, Exchange(1000.0, "10.0.0.1", listener.default, listener.timeouts))
        except ExchangeFailed as failure:
            assert failure.reason is RATE_LIMITED and failure.fields and (failure.retry_after or 0) > 0


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPlane]:
    plane = DataPlane(tmp_path_factory.mktemp("plane"))
    yield plane
    plane.sink.close()


# Values that one side might take and the other not: ordinary ones, borders, and what looks like either.
TEXTS = [
    *(
        "a",
        "/",
        "/a",
        "/a/",
        "/a%2F",
        "/a%00",
        "/%",
        "/a?b",
        "/a?b=%20",
        "/a?%00",
        "/a?b#c",
        "/ü",
        "/a b",
        "//a",
        "/[a]",
    ),
    *("content-length", "Content_Length", "Expect", "X_Forwarded_For", "Host", "X-A", "Proxy", "via", "a b", "é", "a:"),
    *(
        "*",
        "*.a",
        "[::1]",
        "[::1]:80",
        "[fe80::1%e]",
        "a:0",
        "a:99999",
        "a_b.c.",
        "~",
        "1.2.3.4",
        "1.2.3",
        "a\nb",
        "a\0b",
    ),
    *("(", "(a)", "(?i)a", "(?u)a", "\\u00e9", "a{99999}", "((((a))))", "(" * 60 + ")" * 60, "[a", "(?P<n>a)", "/(.*)"),
    *(r"\1", r"/\g<1>", r"/\g<n>", r"/\0", r"\\0", r"/\000", r"/\101", r"/\400", r"\q", r"/\n", r"/\g<0>"),
    *(
        "client_ip",
        "route",
        "path",
        "header:a",
        "header:",
        "header:a b",
        "cookie:a",
        "cookie:é",
        "Cookie:a",
        "COOKIE:a=b",
    ),
    *(
        "301",
        "304",
        "308",
        "0",
        "1",
        "-1",
        "0.5",
        "1e-6",
        "1e-7",
        "1e-320",
        "1e9",
        "1e308",
        "inf",
        "nan",
        "true",
        "none",
    ),
    *("1ms", "0s", "1us", "365d", "64KiB", "50%", "100%", "0.0001", "5xx", "gateway_error", "429", "399", "٣", ""),
    *("round_robin", "ring_hash", "EWMA", "https", "10.0.0.0/8", "fe80::1%e", "unix", "get", "P T", "::1", "0.0.0.0/0"),
]
texts = st.sampled_from(TEXTS)
lists = st.lists(texts, max_size=2, unique=True)
maps = st.dictionaries(texts, texts, max_size=2)
weights = st.dictionaries(texts, st.sampled_from(["0", "1", "1000000"]), min_size=1, max_size=2)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A block with a few of these keys: with many, hardly any would be free of mistakes."""
    one = [st.fixed_dictionaries({name: value}) for name, value in keys.items()]
    return st.one_of(one) | st.tuples(st.one_of(one), st.one_of(one)).map(lambda pair: pair[0] | pair[1])


edits = some(set=maps, add=maps, remove=lists)
limits = some(requests_per_second=texts, burst_size=texts, key=texts)
retries = some(attempts=texts, backoff=texts, max_backoff=texts, on=lists, per_try_timeout=texts, max_body_bytes=texts)
regex_rewrites = st.fixed_dictionaries({"regex": texts, "substitution": texts})
conditions = some(
    host=texts, path_prefix=texts, path=texts, path_regex=texts, methods=lists, headers=maps, timeout=texts,
    retry=retries, rate_limit=limits, rewrite=some(path_prefix=texts, host=texts) | regex_rewrites,
    request_headers=edits, response_headers=edits,
)  # fmt: skip
targets = st.one_of(
    st.just({"service": "s"}),
    st.fixed_dictionaries({"services": weights}, optional={"sticky": texts}),
    st.fixed_dictionaries({"redirect": some(status=texts, scheme=texts, host=texts, path=texts)}),
)
routes = st.tuples(conditions, targets).map(lambda pair: pair[0] | pair[1])
services = some(
    load_balancing=some(algorithm=texts, hash_on=texts, slow_start=texts),
    circuit_breaker=some(failure_threshold=texts, open_duration=texts, error_rate=texts, window=texts),
    health_check=some(path=texts, host=texts, expected_status=texts, cooldown=texts, max_ejected_percent=texts),
    retry=retries | some(budget=some(percent=texts, min=texts)),
    limits=some(max_requests_per_endpoint=texts),
    timeouts=some(connect=texts, request=texts),
)
listeners = some(
    rate_limit=limits, trusted_proxies=lists, metrics=some(path=texts), target_service_name=texts, name=texts,
    limits=some(max_header_bytes=texts, max_headers=texts, max_body_bytes=texts, max_connections_per_client=texts),
)  # fmt: skip
configs = st.one_of(
    st.fixed_dictionaries({"routes": st.tuples(routes).map(list)}),
    st.fixed_dictionaries({"services": st.fixed_dictionaries({"s": services})}),
    services.map(dict),
    st.fixed_dictionaries({"listeners": listeners.map(lambda block: [{"address": ":1", **block}])}),
)


@given(config=configs)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_accepted_compiles(config: dict[str, Any], plane: DataPlane, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")
    reading = read_config(file, {})
    event("accepted" if reading.config is not None else "refused")
    if reading.config is not None:
        plane.compile(compile_settings(reading.config))


@pytest.mark.parametrize(
    "place",
    [
        '{"service": "s", "request_headers": {"set": {%s: "a"}}}',
        '{"service": "s", "request_headers": {"remove": [%s]}}',
        '{"service": "s", "response_headers": {"add": {%s: "a"}}}',
        '{"service": "s", "rewrite": {"path_prefix": %s}}',
        '{"service": "s", "rewrite": {"host": %s}}',
        '{"service": "s", "rewrite": {"regex": "(a)(?P<n>b)?", "substitution": %s}}',
        '{"redirect": {"path": %s}}',
        '{"redirect": {"host": %s}}',
        '{"service": "s", "path_regex": %s}',
        '{"services": {"a": 1, "b": 0}, "sticky": %s}',
        '{"service": "s", "rate_limit": {"requests_per_second": %s, "key": "client_ip"}}',
        '{"service": "s", "retry": {"on": [%s]}}',
    ],
)
def test_every_value_in_the_places_where_both_sides_judge(place: str, plane: DataPlane, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    accepted = 0
    for text in TEXTS:
        file.write_text('{"routes": [' + place % json.dumps(text) + "]}", encoding="utf-8")
        reading = read_config(file, {})
        if reading.config is not None:
            accepted += 1
            plane.compile(compile_settings(reading.config))
    assert 0 < accepted < len(TEXTS)


@pytest.mark.parametrize("word", [*RETRY_CONDITIONS, *(word.upper() for word in RETRY_CONDITIONS), "400", "599"])
def test_every_retry_condition_means_something(word: str) -> None:
    policy = RetryPolicy.of([word])
    assert policy.reasons or policy.statuses
