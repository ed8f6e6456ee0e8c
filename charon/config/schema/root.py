"""The whole of config.yaml."""

from __future__ import annotations

import re
from typing import Annotated

from charon.base.units import DURATION_PATTERN, parse_duration, quoted
from charon.config.schema.admin import Admin
from charon.config.schema.intercept import Intercept
from charon.config.schema.limits import AllLimits
from charon.config.schema.listener import Listener, Traffic
from charon.config.schema.logging import Logging
from charon.config.schema.overload import Overload
from charon.config.schema.section import block, setting
from charon.config.schema.services import Service, Treatment
from charon.config.schema.tls import AllTls
from charon.config.schema.tracing import Tracing
from charon.config.schema.values import Boolean, Duration, Name, OptionalFilePath, Port, kind_of


def _workers(value: object) -> int | None:
    text = str(value).strip().lower()
    if text == "auto":
        return None
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1024:
        raise ValueError(f"{quoted(value)} is not allowed; write a number from 1 to 1024, or auto")
    return int(text)


Workers = Annotated[
    int | None,
    *kind_of(_workers, "a number or auto", {"type": "integer", "minimum": 1, "maximum": 1024}, {"type": "string"}),
]


def _worker_timeout(value: object) -> float:
    seconds = parse_duration(value) if isinstance(value, int | float) else parse_duration(str(value))
    if seconds < 2:
        raise ValueError(f"{quoted(value)} is too short; workers give a sign of life each second: write 2s or more")
    return seconds


WorkerTimeout = Annotated[
    float,
    *kind_of(
        _worker_timeout,
        "a duration",
        {"type": "number", "minimum": 2},
        {"type": "string", "pattern": DURATION_PATTERN},
    ),
]


class Root(Treatment, Traffic):
    """The top level."""

    limits: AllLimits = block(AllLimits, "How much a listener takes on, and how much an endpoint is given.")
    tls: AllTls = block(AllTls, "TLS on both sides.")

    listen_port: Port = setting(
        "8080",
        "Port of the one listener, on all interfaces, IPv4 and IPv6. Port 0 is any free port. Not used together with "
        "`listeners`.",
    )
    listeners: tuple[Listener, ...] = setting((), "Listeners, when there are several, or one that is more than a port.")
    registry_file: OptionalFilePath = setting(
        "none",
        "Registry of services; a change of that file takes effect within a second. `none`: `registry.yaml` beside "
        "this file when a service is named that has no addresses under `services`.",
        example="registry.yaml",
    )
    services: dict[Name, Service] = setting({}, "Settings of single services, by name.")
    logging: Logging = block(Logging, "The log.")
    admin: Admin = block(Admin, "The admin API.", live=False)
    workers: Workers = setting(
        "auto",
        "Processes that carry the traffic: a number, or `auto` for as many as there are CPUs that Charon may use.",
        live=False,
    )
    drain_timeout: Duration = setting(
        "30s",
        "How long open connections may go on after a reload or a stop before they are cut. Those that would go on for "
        "ever (upgraded and TCP connections, answers of unknown length) are cut one after the other in the last third "
        "of it, so that their clients do not all come back at once. An upgrade to WebSocket is closed without a reset.",
    )
    reload_on_change: Boolean = setting(
        False,
        "Reload whenever this file has changed, as `charon reload` does, once it has held still for a moment.",
    )
    worker_timeout: WorkerTimeout = setting(
        "10s",
        "How long a worker may give no sign of life before it is ended and replaced. While it starts: 30 s at least.",
    )
    overload: Overload = block(Overload, "When a worker has more to do than it can.")
    tracing: Tracing = block(Tracing, "Distributed tracing.")
    intercept: Intercept = block(Intercept, "Transparent interception.")
