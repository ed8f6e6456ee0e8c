"""Every event and metric name, once. A step has one name in the log, in metrics and in traces."""

from __future__ import annotations

from typing import Final

NO_UPSTREAM: Final = "none"
"""The ``upstream`` of log lines and metrics where Charon answered by itself."""


class Event:
    """``message`` of a log line."""

    PROXY_STARTED: Final = "charon_proxy_started"
    HTTP_SERVER_START: Final = "http_server_start"
    TCP_SERVER_START: Final = "tcp_server_start"
    SHUTTING_DOWN: Final = "shutting_down"
    STOPPED: Final = "stopped"
    START_FAILED: Final = "start_failed"
    HTTP_REQUEST: Final = "http_request"
    TCP_CONNECTION: Final = "tcp_connection"
    UPSTREAM_ERROR: Final = "upstream_error"
    REGISTRY_RELOADED: Final = "registry_reloaded"
    REGISTRY_RELOAD_FAILED: Final = "registry_reload_failed"
    RESOLVE_FAILED: Final = "resolve_failed"
    RESOLVE_RECOVERED: Final = "resolve_recovered"
    WORKER_STARTED: Final = "worker_started"
    WORKER_DIED: Final = "worker_died"
    WORKER_DRAINED: Final = "worker_drained"
    ACCEPT_FAILED: Final = "accept_failed"
    LOG_REOPENED: Final = "log_reopened"
    INTERNAL_ERROR: Final = "internal_error"
    BAD_REQUEST: Final = "bad_request"
    LIBRARY_LOG: Final = "library_log"
    ADMIN_STARTED: Final = "admin_started"
    ADMIN_FAILED: Final = "admin_failed"


class Metric:
    """Metric families, without the suffixes that the exposition format adds."""

    HTTP_REQUESTS: Final = "charon_http_requests_total"
    HTTP_LATENCY: Final = "charon_http_request_latency_seconds"
    HTTP_RETRIES: Final = "charon_http_retries_total"
    HTTP_RATE_LIMITED: Final = "charon_http_rate_limited_total"
    HTTP_IN_FLIGHT: Final = "charon_http_requests_in_flight"
    UPSTREAM_REQUESTS_IN_FLIGHT: Final = "charon_upstream_requests_in_flight"
    CONNECTIONS: Final = "charon_listener_connections"
    CONNECTIONS_TOTAL: Final = "charon_listener_connections_total"
    ACCEPT_ERRORS: Final = "charon_listener_accept_errors_total"
    RECEIVED_BYTES: Final = "charon_listener_received_bytes_total"
    SENT_BYTES: Final = "charon_listener_sent_bytes_total"
    TCP_CONNECTIONS: Final = "charon_tcp_connections_total"
    TCP_DURATION: Final = "charon_tcp_connection_duration_seconds"
    UPSTREAM_HEALTH: Final = "charon_upstream_health"
    BREAKER_TRANSITIONS: Final = "charon_circuit_breaker_transitions_total"
    UPSTREAM_CONNECTS: Final = "charon_upstream_connects_total"
    UPSTREAM_CONNECT_TIME: Final = "charon_upstream_connect_seconds"
    UPSTREAM_POOL_IDLE: Final = "charon_upstream_pool_idle_connections"
    UPSTREAM_POOL_REUSED: Final = "charon_upstream_pool_reused_total"
    CONFIG_RELOAD_SUCCESSFUL: Final = "charon_config_last_reload_successful"
    CONFIG_RELOAD_TIME: Final = "charon_config_last_reload_success_timestamp_seconds"
    REGISTRY_RELOAD_SUCCESSFUL: Final = "charon_registry_last_reload_successful"
    REGISTRY_RELOAD_TIME: Final = "charon_registry_last_reload_success_timestamp_seconds"
    WORKERS: Final = "charon_workers"
    WORKER_RESTARTS: Final = "charon_worker_restarts_total"
    LOG_DROPPED: Final = "charon_log_lines_dropped_total"
    BUILD_INFO: Final = "charon_build_info"
    START_TIME: Final = "charon_start_time_seconds"
