"""Where spans go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from charon.base import addresses
from charon.base.units import quoted
from charon.config.problems import nearest, one_of
from charon.config.schema.http_values import HeaderMap
from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, Name, Number, OptionalFilePath, kind_of, scalar, wrong

FORMATS: Final = ("w3c", "b3", "b3multi")


def _endpoint(value: object) -> str:
    text = str(value).strip()
    match = re.fullmatch(r"https?://((?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?)(?:[/?][!-\"$-~]*)?", text)
    if match is None or addresses.authority_problem(match[1]) is not None:
        raise ValueError(f"{quoted(value)} is not an endpoint; write http://host:port/path or https://...")
    return text


def _format(value: Any) -> str:
    word = str(scalar(value, "a format")).strip().lower()
    if word in FORMATS:
        return word
    meant = nearest(word, FORMATS)
    hint = f" (did you mean {meant}?)" if meant else ""
    raise wrong(f"{quoted(value)} is not known{hint}; write {one_of(FORMATS)}, or a list of them")


def _formats(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        return (_format(value),)
    if not value:
        raise wrong(f"the list is empty; write {one_of(FORMATS)}, or a list of them")
    return tuple(dict.fromkeys(_format(item) for item in value))


_ONE_FORMAT: Final = [{"enum": [*FORMATS]}, {"type": "string", "pattern": r"\$\{"}]
_FORMATS: Final[Mapping[str, Any]] = {
    "title": f"one of {', '.join(FORMATS)}, or a list of them",
    "anyOf": [*_ONE_FORMAT, {"type": "array", "minItems": 1, "items": {"anyOf": _ONE_FORMAT, "title": "a format"}}],
}
Formats = Annotated[tuple[str, ...], BeforeValidator(_formats), WithJsonSchema(dict(_FORMATS))]
Endpoint = Annotated[str | None, *kind_of(_endpoint, "a URL", {"type": "string", "pattern": "^https?://"}, none=True)]


class Tracing(Section):
    """Distributed tracing. Every HTTP request belongs to a trace: its caller's, read from `traceparent`, from B3 (one
    field or several) or from Jaeger's `uber-trace-id`, or else a new one. A caller's context is taken from anybody, so
    that a client can choose its trace and whether it is sampled; what is not well formed counts as not sent. The
    context is sent on with each try, sampled or not, in the place of what came, and `trace_id` and `span_id` stand in
    the log lines of the request. A sampled request is a span, and so is each try of it. Without an endpoint no spans
    are made; all else is the same."""

    enabled: Boolean = setting(False, "Take part in traces.")
    jaeger_endpoint: Endpoint = setting(
        "none",
        "Jaeger collector that takes Thrift over HTTP, at exactly this URL.",
        example="http://localhost:14268/api/traces",
    )
    otlp_endpoint: Endpoint = setting(
        "none",
        "Collector that takes OTLP over HTTP (protobuf), at exactly this URL. It and `jaeger_endpoint` may both be "
        "given.",
        example="http://localhost:4318/v1/traces",
    )
    otlp_headers: HeaderMap = setting(
        {}, "Header fields for `otlp_endpoint`.", example={"Authorization": "Bearer ${OTLP_TOKEN:-}"}
    )
    ca_file: OptionalFilePath = setting(
        "none",
        "Certificates (PEM) of the authorities that the collectors' own are checked by, for https. `none`: the public "
        "ones.",
        example="collector-ca.pem",
    )
    service_name: Name = setting("charon-proxy", "Name under which spans are exported.")
    sample_ratio: Annotated[float, *Number(0, 1)] = setting(
        1.0,
        "Share of new traces that are sampled, 0 to 1, decided by the trace's id. Where the caller has decided, that "
        "counts.",
    )
    propagation: Formats = setting(
        "w3c",
        "Header fields that the context is sent on in: `w3c` (`traceparent`, `tracestate`), `b3` (one field), "
        "`b3multi` (`X-B3-TraceId`, ...), or a list of them.",
    )

    @property
    def exports(self) -> bool:
        """Whether there is anybody to export spans to."""
        return self.jaeger_endpoint is not None or self.otlp_endpoint is not None
