"""When a worker has more to do than it can."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, setting
from charon.config.schema.values import OptionalDuration, Size


class Overload(Section):
    """When a worker has more to do than it can. What it then turns away is answered with 503 `overloaded` and
    `Retry-After` as soon as its head is read, on a connection that is kept where the request has no body; a new TCP
    connection is closed. Requests for `metrics.path` are never turned away. Beginning and end are logged
    (`overload_started`, `overload_ended`), what was turned away is counted in `charon_overload_shed_total`."""

    max_loop_lag: OptionalDuration = setting(
        "250ms",
        "How late a worker may come to what is ready for it. When it is later for some rounds in a row, it turns away "
        "a part of the new requests, more and more until it keeps up, then fewer and fewer. A healthy worker is late "
        "by a few milliseconds; one pause, however long, is not overload. `none`: it never turns away requests for "
        "this.",
    )
    max_memory: Annotated[int | None, *Size(16 * 1024**2, none=True)] = setting(
        "none",
        "Resident memory of each worker. Over it, looked at every 1.5 s, the worker closes client connections "
        "that are idle between requests; if that does not help, its idle connections to endpoints; if that does not "
        "help, it accepts no connection and turns away all requests until it is below nine tenths of it again, or, "
        "after 10 s of that, drains and is replaced. An idle worker takes about 40 MB: set it well above. `none`: no "
        "limit.",
        example="512MiB",
    )
