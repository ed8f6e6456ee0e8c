"""The last seconds of traffic, in the shape in which the status shows them."""

from __future__ import annotations

from typing import Any, Final

from charon.base.names import Metric
from charon.telemetry.recent import Latency, Recent

_OK: Final = "ok"
_MOST_LIMITS: Final = 50
"""Rate limits that are named, those that were hit most first."""


class Traffic:
    """One look at ``recent``. All rates are per second; latencies are in milliseconds.

    An endpoint is known by its name here: an address that serves two services shows the traffic of both.
    """

    def __init__(self, recent: Recent, history: bool) -> None:
        window = recent.window()
        self.seconds = window.seconds
        self._recent = recent
        self._window = window
        self._history = history
        self._latency = window.latency()
        self._requests = window.rates(Metric.HTTP_REQUESTS)
        self._by_listener = {name: window.rates_by(name, 0) for name in _BY_LISTENER}
        self._tcp = window.rates(Metric.TCP_CONNECTIONS)
        self._upstreams: dict[str, dict[str, float]] = {}
        for (_, status, upstream), rate in self._requests.items():
            self._add(upstream, rate, failed=status.startswith("5"))
        for (_, upstream, outcome), rate in self._tcp.items():
            self._add(upstream, rate, failed=outcome != _OK)
        self._past: dict[str, list[float]] = {}
        self._past_errors: dict[str, list[float]] = {}
        if history:
            self._past = _joined(recent.history(Metric.HTTP_REQUESTS, 2), recent.history(Metric.TCP_CONNECTIONS, 1))
            self._past_errors = recent.history(Metric.HTTP_REQUESTS, 2, "5")

    def _add(self, upstream: str, rate: float, *, failed: bool) -> None:
        seen = self._upstreams.setdefault(upstream, {"requests": 0.0, "errors": 0.0})
        seen["requests"] += rate
        seen["errors"] += rate if failed else 0.0

    @property
    def upstreams(self) -> frozenset[str]:
        """The endpoints that had traffic of late."""
        return frozenset(self._upstreams) | frozenset(self._past)

    def everything(self) -> dict[str, Any]:
        """All HTTP traffic together, and what was held back."""
        window = self._window
        merged = Latency()
        for latency in self._latency.values():
            merged.add(latency.counts)
        classes = dict.fromkeys(("1xx", "2xx", "3xx", "4xx", "5xx"), 0.0)
        for (_, status, _), rate in self._requests.items():
            group = f"{status[:1]}xx"
            if group in classes:
                classes[group] += rate
        requests = sum(self._requests.values())
        shown: dict[str, Any] = {
            "requests_per_second": _rounded(requests),
            "errors_per_second": _rounded(classes["5xx"]),
            "error_rate": _share(classes["5xx"], requests),
            "answers_per_second": {group: _rounded(rate) for group, rate in classes.items()},
            "latency_ms": merged.percentiles(),
            "tcp_connections_per_second": _rounded(sum(self._tcp.values())),
            "retries_per_second": _rounded(window.rate(Metric.HTTP_RETRIES)),
            "rate_limited_per_second": _rounded(window.rate(Metric.HTTP_RATE_LIMITED)),
            "limits_hit": self._limits(Metric.HTTP_RATE_LIMITED, "route"),
            "retry_budgets_exhausted": self._limits(Metric.RETRY_BUDGET_EXHAUSTED, "service"),
        }
        if self._history:
            size = self._recent.samples
            shown["history"] = {
                "requests_per_second": _summed(self._past, size),
                "errors_per_second": _summed(self._past_errors, size),
            }
        return shown

    def _limits(self, family: str, label: str) -> list[dict[str, Any]]:
        rates = sorted(self._window.rates_by(family, 0).items(), key=lambda pair: -pair[1])
        return [{label: name, "per_second": _rounded(rate)} for name, rate in rates[:_MOST_LIMITS]]

    def listener(self, name: str, protocol: str) -> dict[str, Any]:
        """Rates of one listener. A TCP listener has connections where others have requests."""
        rates = {family: series.get(name, 0.0) for family, series in self._by_listener.items()}
        requests, errors = rates[Metric.LISTENER_REQUESTS], rates[Metric.LISTENER_ERRORS]
        if protocol == "tcp":
            ended = [(outcome, rate) for (listener, _, outcome), rate in self._tcp.items() if listener == name]
            requests = sum(rate for _, rate in ended)
            errors = sum(rate for outcome, rate in ended if outcome != _OK)
        return {
            "connections_per_second": _rounded(rates[Metric.CONNECTIONS_TOTAL]),
            "requests_per_second": _rounded(requests),
            "errors_per_second": _rounded(errors),
            "error_rate": _share(errors, requests),
            "received_bytes_per_second": _rounded(rates[Metric.RECEIVED_BYTES]),
            "sent_bytes_per_second": _rounded(rates[Metric.SENT_BYTES]),
        }

    def upstream(self, name: str) -> dict[str, Any]:
        """Rates and latency of one endpoint."""
        seen = self._upstreams.get(name)
        requests, errors = (seen["requests"], seen["errors"]) if seen is not None else (0.0, 0.0)
        latency = self._latency.get(name)
        shown: dict[str, Any] = {
            "requests_per_second": _rounded(requests),
            "errors_per_second": _rounded(errors),
            "error_rate": _share(errors, requests),
            "latency_ms": latency.percentiles() if latency is not None else None,
        }
        if self._history and name in self._past:
            shown["history"] = {
                "requests_per_second": self._past[name],
                "errors_per_second": self._past_errors.get(name, [0.0] * len(self._past[name])),
            }
        return shown


_BY_LISTENER: Final = (
    Metric.CONNECTIONS_TOTAL,
    Metric.LISTENER_REQUESTS,
    Metric.LISTENER_ERRORS,
    Metric.RECEIVED_BYTES,
    Metric.SENT_BYTES,
)


def _rounded(rate: float) -> float:
    return round(rate, 2)


def _share(part: float, whole: float) -> float:
    """0 to 1; 0 of nothing."""
    return round(part / whole, 4) if whole else 0.0


def _joined(one: dict[str, list[float]], other: dict[str, list[float]]) -> dict[str, list[float]]:
    for name, rates in other.items():
        mine = one.get(name)
        one[name] = rates if mine is None else [a + b for a, b in zip(mine, rates, strict=True)]
    return one


def _summed(by_name: dict[str, list[float]], size: int) -> list[float]:
    sums = [0.0] * size
    for rates in by_name.values():
        sums = [a + b for a, b in zip(sums, rates, strict=True)]
    return [round(rate, 2) for rate in sums]
