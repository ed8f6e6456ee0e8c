"""One request and its answer: what happened so far, recorded once at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from charon.base.errors import Reason
from charon.net.deadlines import NEVER

if TYPE_CHECKING:
    from charon.config.snapshot import Timeouts
    from charon.proxy.endpoint import Endpoint
    from charon.proxy.place import Place
    from charon.proxy.route import Route
    from charon.telemetry.tracing import Trace
    from charon.wire.messages import RequestHead


class Exchange:
    """The state of one request.

    ``start`` and ``cutoff`` are monotonic seconds. ``status`` is the status of the answer, or 499 when the client left
    before there was one. ``started`` says that a byte of the final answer has been passed on: from then on the only
    honest way to fail is to break off. ``client`` is the address that limits count. ``rule`` is the route it falls
    under and ``timeouts`` what holds for it, both the listener's defaults at first. ``place`` is its place among the
    requests that its service may have, where that is bounded by latency. ``request_id`` is its name in logs, empty
    where requests have none; ``trace`` is None without tracing.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "client",
        "cutoff",
        "detail",
        "endpoint",
        "head",
        "limited_by",
        "logged",
        "place",
        "reason",
        "request_id",
        "retries",
        "route",
        "rule",
        "set_cookie",
        "start",
        "started",
        "status",
        "timeouts",
        "trace",
        "watches_latency",
    )

    def __init__(self, start: float, client: str, rule: Route, timeouts: Timeouts) -> None:
        self.start = start
        self.client = client
        self.rule = rule
        self.timeouts = timeouts
        self.set_cookie: bytes | None = None
        self.limited_by = ""
        self.place: Place | None = None
        self.watches_latency = False
        self.cutoff = NEVER
        self.head: RequestHead | None = None
        self.route = ""
        self.endpoint: Endpoint | None = None
        self.status = 0
        self.reason: Reason | None = None
        self.detail = ""
        self.retries = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.started = False
        self.logged = True
        self.request_id = b""
        self.trace: Trace | None = None

    def __repr__(self) -> str:
        head = self.head
        what = f"{head.method!r} {head.target!r}" if head is not None else "unread"
        where = self.endpoint.name if self.endpoint is not None else "-"
        return f"<Exchange {what} -> {where} status={self.status} reason={self.reason}>"

    def ids(self) -> dict[str, Any]:
        """The fields by which every log line of the request says whose it is, and which trace it belongs to."""
        ids: dict[str, Any] = {"request_id": self.request_id.decode("ascii")} if self.request_id else {}
        return ids if self.trace is None else ids | self.trace.ids()

    def fail(self, reason: Reason, detail: str) -> None:
        """Note why the exchange did not go well. The first reason counts."""
        if self.reason is None:
            self.reason = reason
            self.detail = detail
