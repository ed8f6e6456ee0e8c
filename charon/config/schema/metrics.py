"""Where Prometheus finds the metrics."""

from __future__ import annotations

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, UrlPath


class Metrics(Section):
    """Metrics for Prometheus. They are always on the admin socket as well."""

    path: UrlPath = setting(
        "/metrics", "Path on which the HTTP listeners answer metrics; the admin socket has them on `/metrics`."
    )
    on_listeners: Boolean = setting(
        True,
        "Answer the metrics path on the HTTP listeners themselves. It then hides the same path of the services "
        "behind them; `false` leaves the path to them.",
    )
