"""Where spans go."""

from __future__ import annotations

import re
from typing import Annotated

from charon.base.units import quoted
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, Choice, Name, Number, kind_of


def _endpoint(value: object) -> str:
    text = str(value).strip()
    if not re.fullmatch(r"https?://[!-~]+", text):
        raise ValueError(f"{quoted(value)} is not an endpoint; write http://host:port/path or https://...")
    return text


Endpoint = Annotated[str | None, *kind_of(_endpoint, "a URL", {"type": "string", "pattern": "^https?://"}, none=True)]


class Tracing(Section):
    """Distributed tracing."""

    enabled: Boolean = setting(False, "Make and export spans.")
    jaeger_endpoint: Endpoint = setting(
        "none",
        "Jaeger collector that takes Thrift over HTTP, at exactly this URL.",
        example="http://localhost:14268/api/traces",
    )
    otlp_endpoint: Endpoint = setting(
        "none", "Collector that takes OTLP over HTTP.", example="http://localhost:4318/v1/traces"
    )
    service_name: Name = setting("charon-proxy", "Name under which spans are exported.")
    sample_ratio: Annotated[float, *Number(0, 1)] = setting(1.0, "Share of new traces that are sampled, 0 to 1.")
    propagation: Annotated[str, *Choice("w3c", "b3")] = setting("w3c", "Trace headers that are sent on: `w3c` or `b3`.")
