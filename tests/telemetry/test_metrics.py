"""What a worker counts, and what it hands on."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

from charon.base.names import NO_UPSTREAM, Metric
from charon.telemetry.families import CONNECTION_BUCKETS, FAMILIES, OVERFLOW, REQUEST_BUCKETS
from charon.telemetry.metrics import OK
from tests.telemetry.conftest import Counting


def counter(delta: dict[str, dict[str, list[list[object]]]], name: str) -> dict[tuple[str, ...], object]:
    return {tuple(labels): amount for labels, amount in delta["counters"].get(name, [])}  # type: ignore[arg-type]


def test_requests_are_counted_by_method_status_and_upstream() -> None:
    metrics = Counting()
    metrics.http_request("GET", 200, "a:80", 0.003)
    metrics.http_request("GET", 200, "a:80", 0.003)
    metrics.http_request("POST", 503, NO_UPSTREAM, 0.0001)
    delta = metrics.delta()
    assert counter(delta, Metric.HTTP_REQUESTS) == {("GET", "200", "a:80"): 2, ("POST", "503", "none"): 1}


def test_a_collection_holds_what_came_since_the_last_one() -> None:
    metrics = Counting()
    metrics.http_request("GET", 200, "a:80", 0.003)
    metrics.retry("GET")
    metrics.listener("web").accepted()
    metrics.delta()
    assert metrics.delta() == {
        "counters": {},
        "histograms": {},
        "gauges": {Metric.CONNECTIONS: [[["web"], 0]], Metric.HTTP_IN_FLIGHT: [[["web"], 0]]},
    }
    metrics.http_request("GET", 200, "a:80", 0.003)
    assert counter(metrics.delta(), Metric.HTTP_REQUESTS) == {("GET", "200", "a:80"): 1}


def test_latencies_of_all_statuses_share_a_histogram_whose_bounds_are_inclusive() -> None:
    metrics = Counting()
    for status, seconds in ((200, 0.0005), (200, 0.00051), (500, 10.0), (500, 11.0)):
        metrics.http_request("GET", status, "a:80", seconds)
    ((labels, counts, total),) = metrics.delta()["histograms"][Metric.HTTP_LATENCY]
    assert labels == ["GET", "a:80"]
    assert dict(zip([*REQUEST_BUCKETS, float("inf")], counts, strict=True)) == dict.fromkeys(REQUEST_BUCKETS, 0) | {
        0.0005: 1, 0.001: 1, 10.0: 1, float("inf"): 1,
    }  # fmt: skip
    assert total == pytest.approx(21.00101)


def test_methods_and_statuses_a_peer_made_up_are_folded() -> None:
    metrics = Counting()
    for method, status in (("FOO", 200), ("get", 200), ("BAR", 200), ("GET", 999), ("GET", 42)):
        metrics.http_request(method, status, "a:80", 0.1)
        metrics.retry(method)
    delta = metrics.delta()
    assert counter(delta, Metric.HTTP_REQUESTS) == {("OTHER", "200", "a:80"): 3, ("GET", "OTHER", "a:80"): 2}
    assert counter(delta, Metric.HTTP_RETRIES) == {("OTHER",): 3, ("GET",): 2}


def test_series_are_bounded() -> None:
    metrics = Counting(max_series=3)
    for number in range(10):
        metrics.http_request("GET", 200, f"u{number}", 0.1)
        metrics.tcp_connection("db", f"u{number}", OK, 1.0)
    delta = metrics.delta()
    assert counter(delta, Metric.HTTP_REQUESTS)[OVERFLOW, OVERFLOW, OVERFLOW] == 7
    assert counter(delta, Metric.TCP_CONNECTIONS)[OVERFLOW, OVERFLOW, OVERFLOW] == 7
    assert len(delta["histograms"][Metric.HTTP_LATENCY]) == 4
    assert len(delta["histograms"][Metric.TCP_DURATION]) == 4


def test_listeners_and_upstreams_are_counted_by_those_who_hold_them() -> None:
    metrics = Counting()
    web = metrics.listener("web")
    assert metrics.listener("web") is web
    web.connections, web.in_flight = 3, 2
    for _ in range(5):
        web.accepted()
    web.moved(received=100, sent=200)
    web.accept_failed()
    web.answered(False)
    web.answered(True)
    upstream = metrics.upstream("users", "a:80")
    assert metrics.upstream("users", "a:80") is upstream
    upstream.in_flight, upstream.pool_idle = 1, 4
    upstream.reused()
    upstream.reused()
    upstream.connected(0.002)
    upstream.connect_failed("connect_refused")
    delta = metrics.delta()
    assert delta["counters"] == {
        Metric.CONNECTIONS_TOTAL: [[["web"], 5]],
        Metric.ACCEPT_ERRORS: [[["web"], 1]],
        Metric.LISTENER_REQUESTS: [[["web"], 2]],
        Metric.LISTENER_ERRORS: [[["web"], 1]],
        Metric.RECEIVED_BYTES: [[["web"], 100]],
        Metric.SENT_BYTES: [[["web"], 200]],
        Metric.UPSTREAM_POOL_REUSED: [[["users", "a:80"], 2]],
        Metric.UPSTREAM_CONNECTS: [[["users", "a:80", "ok"], 1], [["users", "a:80", "connect_refused"], 1]],
    }
    assert delta["gauges"] == {
        Metric.CONNECTIONS: [[["web"], 3]],
        Metric.HTTP_IN_FLIGHT: [[["web"], 2]],
        Metric.UPSTREAM_REQUESTS_IN_FLIGHT: [[["users", "a:80"], 1]],
        Metric.UPSTREAM_POOL_IDLE: [[["users", "a:80"], 4]],
    }
    ((labels, counts, total),) = delta["histograms"][Metric.UPSTREAM_CONNECT_TIME]
    assert (labels, sum(counts), total) == (["users", "a:80"], 1, 0.002)


def test_relayed_connections_last_longer_than_requests() -> None:
    metrics = Counting()
    metrics.tcp_connection("db", "a:5432", OK, 1000.0)
    metrics.tcp_connection("db", "a:5432", "idle_timeout", 90.0)
    delta = metrics.delta()
    assert counter(delta, Metric.TCP_CONNECTIONS) == {("db", "a:5432", "ok"): 1, ("db", "a:5432", "idle_timeout"): 1}
    ((_, counts, _),) = delta["histograms"][Metric.TCP_DURATION]
    assert counts[CONNECTION_BUCKETS.index(3600.0)] == 1 and counts[CONNECTION_BUCKETS.index(300.0)] == 1


def test_totals_that_are_kept_elsewhere_become_increases() -> None:
    metrics = Counting()
    seen = []
    for total in (0, 3, 3, 5):
        metrics.count_up_to(Metric.LOG_DROPPED, (), total)
        seen.append(counter(metrics.delta(), Metric.LOG_DROPPED).get((), 0))
    assert seen == [0, 3, 0, 2]


@pytest.mark.parametrize(
    ("family", "labels"),
    [("charon_unheard_of", ()), (Metric.CONNECTIONS, ("web",)), (Metric.HTTP_LATENCY, ("GET", "a")),
     (Metric.HTTP_RETRIES, ())],
)  # fmt: skip
def test_only_counters_can_be_counted(family: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        Counting().count(family, labels)


def test_series_of_what_left_end_and_late_counts_go_nowhere() -> None:
    metrics = Counting()
    metrics.retain([], ["db", "web"])
    held = {name: metrics.upstream("users", name) for name in ("old", "new", "moved")}
    for name, upstream in held.items():
        upstream.reused()
        upstream.connected(0.1)
        metrics.http_request("GET", 200, name, 0.1)
        metrics.tcp_connection("db", name, OK, 0.1)
        metrics.count(Metric.BREAKER_TRANSITIONS, (name, "open"))
    metrics.http_request("GET", 404, NO_UPSTREAM, 0.1)
    metrics.count(Metric.RETRY_BUDGET_EXHAUSTED, ("users",))
    web = metrics.listener("web")
    web.accepted()
    metrics.upstream("orders", "moved")
    metrics.retain([("orders", "moved")], ["db"])
    last = metrics.delta()
    assert counter(last, Metric.HTTP_REQUESTS)["GET", "200", "old"] == 1, "what was counted is read once more"
    for upstream in held.values():
        upstream.reused()
        upstream.connected(0.1)
        upstream.connect_failed("connect_refused")
    web.accepted()
    for name in held:
        metrics.http_request("GET", 200, name, 0.1, "ab" * 16)
        metrics.tcp_connection("web", name, OK, 0.1)
    metrics.count(Metric.RETRY_BUDGET_EXHAUSTED, ("users",))
    later = metrics.delta()
    assert later["counters"] == {Metric.HTTP_REQUESTS: [[["GET", "200", "moved"], 1]]}
    assert [labels for labels, *_ in later["histograms"][Metric.HTTP_LATENCY]] == [["GET", "moved"]]
    assert [labels for labels, _ in later["gauges"][Metric.UPSTREAM_POOL_IDLE]] == [["orders", "moved"]]


def test_an_endpoint_that_is_made_after_the_snapshot_or_returns_is_counted() -> None:
    metrics = Counting()
    metrics.retain([], [])
    metrics.upstream("users", "a").reused()
    metrics.retain([], [])
    metrics.upstream("users", "a").reused()
    metrics.http_request("GET", 200, "a", 0.1)
    assert counter(metrics.delta(), Metric.UPSTREAM_POOL_REUSED) == {("users", "a"): 1}
    metrics.upstream("users", "a").reused()
    assert counter(metrics.delta(), Metric.UPSTREAM_POOL_REUSED) == {("users", "a"): 1}


def test_a_recorded_trace_is_the_example_of_its_bucket() -> None:
    metrics = Counting()
    metrics.http_request("FOO", 200, "a:80", 0.003)
    assert "exemplars" not in metrics.collect()
    for trace, seconds in (("aa", 0.003), ("bb", 0.0031), ("cc", 99.0)):
        metrics.http_request("FOO", 200, "a:80", seconds, trace * 16)
    assert metrics.collect()["exemplars"] == {
        Metric.HTTP_LATENCY: [
            [["OTHER", "a:80"], REQUEST_BUCKETS.index(0.005), "bb" * 16, 0.0031, 1000.0],
            [["OTHER", "a:80"], len(REQUEST_BUCKETS), "cc" * 16, 99.0, 1000.0],
        ]
    }
    assert "exemplars" not in metrics.collect()


def test_a_delta_can_travel_as_json() -> None:
    metrics = Counting()
    metrics.http_request("GET", 200, "a:80", 0.003)
    metrics.upstream("users", "a:80").connected(0.1)
    metrics.listener("web").accepted()
    delta = metrics.delta()
    assert orjson.loads(orjson.dumps(delta)) == delta


def test_every_metric_name_has_a_family_and_a_help_text() -> None:
    names = {value for key, value in vars(Metric).items() if key.isupper()}
    assert names == set(FAMILIES)
    for family in FAMILIES.values():
        assert family.help.endswith(".") and (family.kind == "counter") == family.name.endswith("_total")
        assert bool(family.buckets) == (family.kind == "histogram")
    plain = [name.removesuffix("_total") for name in names]
    assert len(set(plain)) == len(plain), "OpenMetrics names a counter's family without its suffix"


def test_workers_do_without_prometheus_client() -> None:
    imports = "charon.telemetry.metrics, charon.telemetry.access_log, charon.telemetry.events"
    code = f"import sys, {imports}; print('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
