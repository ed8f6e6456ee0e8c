"""What ``charon status`` and the admin API show: the state of everything, as plain values with stable names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from charon import __version__
from charon.base.names import Metric

if TYPE_CHECKING:
    from charon.daemon.supervisor import Supervisor


def status(supervisor: Supervisor) -> dict[str, Any]:
    """Listeners, services, certificates, workers, and what changed last."""
    snapshot = supervisor.snapshot
    workers = supervisor.workforce.status()
    predecessor = supervisor.inheritance.predecessor
    obstacle = supervisor.not_ready()
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_seconds": round(supervisor.clock.monotonic() - supervisor.started_at, 3),
        "ready": obstacle is None,
        "not_ready_because": obstacle,
        "draining": supervisor.draining,
        "connections": _total(workers, "connections"),
        "draining_connections": _total(workers, "draining"),
        "predecessor": predecessor.status() if predecessor is not None else None,
        "config_file": supervisor.settings.file,
        "config_digest": supervisor.settings.digest,
        "last_reload": supervisor.last_reload,
        "last_upgrade": supervisor.last_upgrade,
        "generation": snapshot.generation if snapshot is not None else 0,
        "listeners": [
            {
                "name": spec.name,
                "address": supervisor.listeners.address(spec.name),
                "protocol": spec.protocol,
                "tls": spec.tls is not None,
            }
            for spec in (snapshot.listeners if snapshot is not None else ())
        ],
        "services": supervisor.shared.status(),
        "certificates": supervisor.certificates.status(),
        "interception": supervisor.interceptor.status(),
        "log": {
            "file": supervisor.settings.logging.file,
            "level": supervisor.settings.logging.level,
            "lines_dropped": int(supervisor.totals.counted(Metric.LOG_DROPPED)),
            "write_errors": int(supervisor.totals.counted(Metric.LOG_WRITE_ERRORS)),
        },
        "workers": workers,
    }


def _total(workers: list[dict[str, Any]], key: str) -> int:
    return sum(int(worker.get(key, 0)) for worker in workers)
