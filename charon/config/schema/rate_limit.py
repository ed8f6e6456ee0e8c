"""How many requests are let through."""

from __future__ import annotations

import re
from typing import Annotated

from charon.base.units import quoted
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Number, UrlPath, Whole, kind_of


def _key(value: object) -> str:
    text = str(value).strip()
    kind, colon, name = text.partition(":")
    if text.lower() in ("route", "client_ip"):
        return text.lower()
    if kind.lower() == "header" and colon and re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        return f"header:{name}"
    raise ValueError(f"{quoted(value)} is not a key; write route, client_ip or header:NAME")


class RateLimit(Section):
    """A token bucket: requests over it are answered with 429 and `Retry-After`."""

    requests_per_second: Annotated[float, *Number(0, 1e9)] = setting(
        0, "Requests per second that are let through in the long run. `0`: no limit."
    )
    burst_size: Annotated[int | None, *Whole(1, 1_000_000_000, none=True)] = setting(
        "none", "Requests that may come at once after a quiet time. `none`: as many as one second allows, at least 1."
    )
    routes: tuple[UrlPath, ...] = setting((), "Path prefixes that the limit applies to. Empty: all.")
    key: Annotated[str, *kind_of(_key, "route, client_ip or header:NAME", {"type": "string"})] = setting(
        "route", "What has a bucket of its own: each `route`, each `client_ip`, or each value of `header:NAME`."
    )
