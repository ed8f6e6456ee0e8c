"""The supervisor's totals and what Prometheus reads of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from charon.base.names import NO_UPSTREAM, Metric
from charon.telemetry.exposition import Totals
from charon.telemetry.families import OVERFLOW
from charon.telemetry.metrics import OK
from tests.telemetry.conftest import Counting

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(totals: Totals) -> Samples:
    families = parse_text(totals.render()[1].decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(totals: Totals, name: str, **labels: str) -> float | None:
    return samples(totals).get((name, frozenset(labels.items())))


def upstreams(totals: Totals) -> set[str]:
    return {dict(labels)["upstream"] for _, labels in samples(totals) if "upstream" in dict(labels)}


def retain(totals: Totals, endpoints: list[tuple[str, str]]) -> None:
    totals.retain(endpoints, ("users", "orders"), ("web", "db"))


def busy_worker(upstream: str = "a:80", service: str = "users") -> Counting:
    metrics = Counting()
    metrics.http_request("GET", 200, upstream, 0.003)
    metrics.http_request("GET", 200, upstream, 3.0)
    metrics.listener("web").connections = 2
    endpoint = metrics.upstream(service, upstream)
    endpoint.connected(0.001)
    endpoint.pool_idle = 1
    metrics.tcp_connection("db", upstream, OK, 1.0)
    return metrics


def test_counters_outlive_workers_and_gauges_do_not() -> None:
    totals = Totals()
    for worker in (1, 2):
        totals.add(worker, busy_worker().delta())
    requests = {"method": "GET", "status": "200", "upstream": "a:80"}
    assert value(totals, "charon_http_requests_total", **requests) == 4
    assert value(totals, "charon_listener_connections", listener="web") == 4
    totals.worker_gone(1)
    totals.add(3, busy_worker().delta())
    assert value(totals, "charon_http_requests_total", **requests) == 6
    assert value(totals, "charon_http_request_latency_seconds_count", method="GET", upstream="a:80") == 6
    assert value(totals, "charon_listener_connections", listener="web") == 4
    totals.worker_gone(2)
    totals.worker_gone(3)
    totals.worker_gone(3)
    assert value(totals, "charon_http_requests_total", **requests) == 6
    assert value(totals, "charon_listener_connections", listener="web") is None


def test_gauges_of_a_worker_are_replaced() -> None:
    totals = Totals()
    metrics = Counting()
    metrics.listener("web").connections = 5
    totals.add(1, metrics.delta())
    metrics.listener("web").connections = 2
    totals.add(1, metrics.delta())
    assert value(totals, "charon_listener_connections", listener="web") == 2


def test_histograms_are_cumulative() -> None:
    totals = Totals()
    totals.add(1, busy_worker().delta())
    name, labels = "charon_http_request_latency_seconds", {"method": "GET", "upstream": "a:80"}
    assert value(totals, f"{name}_bucket", le="0.0025", **labels) == 0
    assert value(totals, f"{name}_bucket", le="0.005", **labels) == 1
    assert value(totals, f"{name}_bucket", le="2.5", **labels) == 1
    assert value(totals, f"{name}_bucket", le="5.0", **labels) == 2
    assert value(totals, f"{name}_bucket", le="+Inf", **labels) == 2
    assert value(totals, f"{name}_count", **labels) == 2
    assert value(totals, f"{name}_sum", **labels) == pytest.approx(3.003)


@pytest.mark.parametrize(
    "change",
    [
        lambda delta: delta["counters"].update(charon_unheard_of_total=[[[], 1]]),
        lambda delta: delta["counters"].update({Metric.WORKERS: [[[], 1]]}),
        lambda delta: delta["counters"].update({Metric.HTTP_RETRIES: [[["GET", "more"], 1]]}),
        lambda delta: delta["counters"].update({Metric.HTTP_RETRIES: [[["GET"], -1]]}),
        lambda delta: delta["gauges"].update({Metric.HTTP_RETRIES: [[["GET"], 1]]}),
        lambda delta: delta["gauges"].update({Metric.CONNECTIONS: [[["web"], "many"]]}),
        lambda delta: delta["histograms"].update({Metric.HTTP_LATENCY: [[["GET", "a"], [1, 2, 3], 1.0]]}),
        lambda delta: delta.update(summaries={}),
        lambda delta: delta.update(exemplars={Metric.HTTP_LATENCY: [[["GET", "a"], 99, "ab" * 16, 1.0, 1.0]]}),
        lambda delta: delta.update(exemplars={Metric.HTTP_LATENCY: [[["GET", "a"], 1, 'x"} 1', 1.0, 1.0]]}),
    ],
    ids=["family", "kind", "labels", "negative", "gauge", "word", "buckets", "part", "bucket", "trace"],
)
def test_a_malformed_delta_is_an_error_and_changes_nothing(change: Any) -> None:
    totals = Totals()
    totals.add(1, busy_worker().delta())
    before = samples(totals)
    delta = copy.deepcopy(busy_worker().delta())
    change(delta)
    with pytest.raises(ValueError):
        totals.add(1, delta)
    assert samples(totals) == before


def test_series_of_an_endpoint_that_left_are_dropped() -> None:
    totals = Totals()
    for name in ("old:80", "new:80", NO_UPSTREAM):
        totals.add(1 if name == "old:80" else 2, busy_worker(name).delta())
    retain(totals, [("users", "new:80")])
    assert upstreams(totals) == {"new:80", "none"}


def test_with_known_endpoints_late_counts_of_others_are_not_shown() -> None:
    totals = Totals()
    retain(totals, [("users", "old:80"), ("users", "new:80")])
    totals.add(1, busy_worker("old:80").delta())
    assert upstreams(totals) == {"old:80"}
    retain(totals, [("users", "new:80")])
    totals.add(1, busy_worker("old:80").delta())
    totals.set_gauge(Metric.UPSTREAM_HEALTH, ("users", "old:80"), 1)
    assert upstreams(totals) == set()
    retain(totals, [("users", "old:80")])
    totals.add(1, busy_worker("old:80").delta())
    requests = {"method": "GET", "status": "200", "upstream": "old:80"}
    assert value(totals, "charon_http_requests_total", **requests) == 2
    retain(totals, [])
    assert upstreams(totals) == set()


def test_series_of_listeners_and_services_that_left_are_dropped() -> None:
    totals = Totals()
    totals.add(1, busy_worker().delta())
    totals.count(Metric.RETRY_BUDGET_EXHAUSTED, ("users",))
    totals.retain([("users", "a:80")], ["users"], ["web"])
    assert value(totals, "charon_listener_connections", listener="web") == 2
    assert value(totals, "charon_http_retry_budget_exhausted_total", service="users") == 1
    totals.retain([], [], [])
    left = {name for name, labels in samples(totals) if {"listener", "service"} & dict(labels).keys()}
    assert left == set()


def test_an_endpoint_that_left_one_service_stays_in_the_other() -> None:
    totals = Totals()
    retain(totals, [("users", "a:80"), ("orders", "a:80")])
    totals.add(1, busy_worker(service="users").delta())
    totals.add(2, busy_worker(service="orders").delta())
    retain(totals, [("orders", "a:80")])
    assert value(totals, "charon_upstream_pool_idle_connections", service="users", upstream="a:80") is None
    assert value(totals, "charon_upstream_pool_idle_connections", service="orders", upstream="a:80") == 1
    assert value(totals, "charon_http_requests_total", method="GET", status="200", upstream="a:80") == 4


def test_series_are_bounded_and_the_rest_is_in_one() -> None:
    totals = Totals(max_series=3)
    for number in range(10):
        totals.add(1, busy_worker(f"u{number}").delta())
    name = "charon_http_requests_total"
    assert value(totals, name, method=OVERFLOW, status=OVERFLOW, upstream=OVERFLOW) == 14
    latency = "charon_http_request_latency_seconds_count"
    assert value(totals, latency, method=OVERFLOW, upstream=OVERFLOW) == 14
    assert sum(1 for sample_name, _ in samples(totals) if sample_name == name) == 4


def test_the_supervisors_own_numbers() -> None:
    totals = Totals()
    totals.started("1.2.3", 1000.5)
    totals.workers(2)
    totals.worker_replaced()
    totals.worker_replaced()
    totals.config_loaded(True, 2000.0, "abc")
    totals.registry_loaded(True, 2000.0)
    totals.registry_loaded(False, 3000.0)
    assert value(totals, "charon_start_time_seconds") == 1000.5
    assert value(totals, "charon_workers") == 2
    assert value(totals, "charon_worker_restarts_total") == 2
    assert value(totals, "charon_config_last_reload_successful") == 1
    assert value(totals, "charon_registry_last_reload_successful") == 0
    assert value(totals, "charon_registry_last_reload_success_timestamp_seconds") == 2000
    (labels,) = [labels for name, labels in samples(totals) if name == "charon_build_info"]
    assert (dict(labels)["version"], set(dict(labels))) == ("1.2.3", {"version", "python", "gevent"})


def test_unknown_names_are_refused_of_the_supervisor_too() -> None:
    with pytest.raises(ValueError):
        Totals().count("charon_unheard_of_total")
    with pytest.raises(ValueError):
        Totals().set_gauge(Metric.WORKERS, ("extra",), 1)


def full() -> Totals:
    totals = Totals()
    totals.started("1.2.3", 1000.5)
    totals.add(1, busy_worker().delta())
    totals.count(Metric.HTTP_RATE_LIMITED, ('odd "route"\\\nname',))
    totals.set_gauge(Metric.UPSTREAM_HEALTH, ("users", "a:80"), 1)
    return totals


def test_plain_text_by_default() -> None:
    content_type, body = full().render("*/*")
    assert content_type.startswith("text/plain")
    assert b"# TYPE charon_http_requests_total counter\n" in body
    assert b"# HELP charon_http_requests_total HTTP requests answered" in body
    assert b'charon_http_requests_total{method="GET",status="200",upstream="a:80"} 2.0\n' in body
    assert value(full(), "charon_http_rate_limited_total", route='odd "route"\\\nname') == 1


def test_openmetrics_for_who_asks_for_it() -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    content_type, body = full().render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["charon_http_requests"].type == "counter"
    assert families["charon_build"].type == "info"


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=banana", "text/plain;version=;;", ","])
def test_any_accept_field_is_answered(accept: str) -> None:
    content_type, body = full().render(accept)
    assert content_type and b"charon_workers" not in body and b"charon_http_requests_total{" in body


def test_a_trace_shows_as_example_in_openmetrics_only() -> None:
    metrics = Counting()
    metrics.http_request("GET", 200, "a:80", 0.003, "ab" * 16)
    totals = full()
    totals.add(1, metrics.delta())
    text = totals.render("application/openmetrics-text;version=1.0.0")[1].decode()
    (line,) = [line for line in text.splitlines() if "# {" in line]
    assert 'le="0.005"' in line and line.endswith('# {trace_id="' + "ab" * 16 + '"} 0.003 1000.0')
    (family,) = [family for family in parse_openmetrics(text) if family.name == "charon_http_request_latency_seconds"]
    assert [sample.exemplar.labels for sample in family.samples if sample.exemplar] == [{"trace_id": "ab" * 16}]
    assert b"trace_id" not in totals.render("text/plain")[1]
