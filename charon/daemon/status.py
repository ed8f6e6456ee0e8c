"""What ``charon status`` and the admin API show: the state of everything, as plain values with stable names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from charon import __version__
from charon.base.names import Metric
from charon.daemon.traffic import Traffic

if TYPE_CHECKING:
    from charon.daemon.supervisor import Supervisor


def status(supervisor: Supervisor, services: int | None = None, *, history: bool = False) -> dict[str, Any]:
    """Listeners, services, workers, certificates, and what changed last.

    ``services`` bounds how many are shown; ``history`` adds the last minute, sample by sample.
    """
    snapshot = supervisor.snapshot
    workers = supervisor.workforce.status()
    predecessor = supervisor.inheritance.predecessor
    obstacle = supervisor.not_ready()
    traffic = Traffic(supervisor.recent, history)
    return {
        "version": __version__,
        "pid": os.getpid(),
        "time": supervisor.clock.wall(),
        "uptime_seconds": round(supervisor.clock.monotonic() - supervisor.started_at, 3),
        "ready": obstacle is None,
        "not_ready_because": obstacle,
        "draining": supervisor.draining or supervisor.leaving,
        "connections": _total(workers, "connections"),
        "draining_connections": _total(workers, "draining"),
        "predecessor": predecessor.status() if predecessor is not None else None,
        "config_file": supervisor.settings.file,
        "config_digest": supervisor.settings.digest,
        "last_reload": supervisor.last_reload,
        "last_upgrade": supervisor.last_upgrade,
        "registry": registry_status(supervisor),
        "generation": snapshot.generation if snapshot is not None else 0,
        "window_seconds": round(traffic.seconds, 3),
        "traffic": traffic.everything(),
        "listeners": listeners_status(supervisor, traffic),
        "services": services_status(supervisor, traffic, services),
        "services_total": supervisor.shared.count,
        "log": {
            "file": supervisor.settings.logging.file,
            "level": supervisor.events.level,
            "lines_dropped": int(supervisor.totals.counted(Metric.LOG_DROPPED)),
            "write_errors": int(supervisor.totals.counted(Metric.LOG_WRITE_ERRORS)),
        },
        "workers": workers,
        "certificates": supervisor.certificates.status(),
        "interception": supervisor.interceptor.status(),
        "last_problem": supervisor.problems.last,
    }


def registry_status(supervisor: Supervisor) -> dict[str, Any] | None:
    """The registry file and how its last load went; None where there is none."""
    registry = supervisor.registry
    if registry is None:
        return None
    return {
        "file": supervisor.settings.registry_file,
        "ok": registry.last_reload_successful,
        "loaded_at": registry.last_success_time,
        "problems": list(registry.problems),
    }


def listeners_status(supervisor: Supervisor, traffic: Traffic) -> list[dict[str, Any]]:
    """Every listener with its connections and rates."""
    snapshot = supervisor.snapshot
    connections = supervisor.totals.gauge(Metric.CONNECTIONS)
    in_flight = supervisor.totals.gauge(Metric.HTTP_IN_FLIGHT)
    return [
        {
            "name": spec.name,
            "address": supervisor.listeners.address(spec.name),
            "protocol": spec.protocol,
            "tls": spec.tls is not None,
            "connections": int(connections.get((spec.name,), 0)),
            "in_flight": int(in_flight.get((spec.name,), 0)),
            **traffic.listener(spec.name, spec.protocol),
        }
        for spec in (snapshot.listeners if snapshot is not None else ())
    ]


def services_status(supervisor: Supervisor, traffic: Traffic, limit: int | None = None) -> dict[str, Any]:
    """Every service with its endpoints: their health, breaker, load, rates and latency."""
    in_flight = supervisor.totals.gauge(Metric.UPSTREAM_REQUESTS_IN_FLIGHT)
    found = supervisor.shared.status(limit, traffic.upstreams)
    for service, endpoints in found.items():
        for endpoint in endpoints:
            name = endpoint["endpoint"]
            endpoint["in_flight"] = int(in_flight.get((service, name), 0))
            endpoint.update(traffic.upstream(name))
    return found


def _total(workers: list[dict[str, Any]], key: str) -> int:
    return sum(int(worker.get(key, 0)) for worker in workers)
