"""OpenTelemetry's exporters, driven directly: one batch, one answer, no threads of theirs.

Only the exporter's process imports this: the libraries take some 20 MB.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final

import requests
from opentelemetry.exporter.jaeger.thrift import JaegerExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from charon.config.settings import ExportSpec
from charon.daemon.span_sender import Refused, Send, Unreachable
from charon.telemetry.spans import Span

EXPORT_SECONDS: Final = 5
"""How long a collector may take for one batch."""

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


@dataclass(frozen=True)
class Origin:
    """Who made the spans: the resource and the scope that collectors show."""

    resource: Resource
    scope: InstrumentationScope

    @classmethod
    def of(cls, service_name: str, version: str, instance: str) -> Origin:
        attributes = {
            "service.name": service_name,
            "service.version": version,
            "service.instance.id": instance,
            "host.name": socket.gethostname(),
        }
        return cls(Resource.create(attributes), InstrumentationScope("charon", version))


def readable(span: Span, origin: Origin) -> ReadableSpan:
    """A span as OpenTelemetry's exporters read it."""
    trace_id = int(span.trace_id, 16)
    state = TraceState.from_header([span.state]) if span.state else TraceState()
    context = SpanContext(trace_id, int(span.span_id, 16), False, _SAMPLED, state)
    parent = SpanContext(trace_id, int(span.parent_id, 16), span.remote, _SAMPLED) if span.parent_id else None
    return ReadableSpan(
        name=span.name,
        context=context,
        parent=parent,
        resource=origin.resource,
        attributes=span.attributes,
        kind=SpanKind.SERVER if span.server else SpanKind.CLIENT,
        status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=origin.scope,
    )


class LastWords(logging.Handler):
    """What the libraries log is why a batch failed: kept by thread, for whoever asks there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self._said[threading.get_ident()] = record.getMessage()[:300]

    def take(self) -> str:
        """The last line that this thread's libraries have logged since the last call."""
        return self._said.pop(threading.get_ident(), "")


class _Jaeger(JaegerExporter):
    """Jaeger's Thrift over HTTP, at exactly one URL. Says whether the collector took the batch, which its base keeps
    to itself."""

    def __init__(self, endpoint: str, ca_file: str | None) -> None:
        with warnings.catch_warnings():
            # Its authors recommend OTLP, which Charon speaks too; who has a collector for Thrift has reasons.
            warnings.simplefilter("ignore", DeprecationWarning)
            super().__init__(collector_endpoint=endpoint, timeout=EXPORT_SECONDS)
        client = self._collector_http_client
        assert client is not None  # there is an endpoint
        self._transport: Any = client.http_transport
        if ca_file is not None:
            self._transport.context = ssl.create_default_context(cafile=ca_file)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        super().export(spans)
        code = self._transport.code
        return SpanExportResult.SUCCESS if 200 <= code < 300 else SpanExportResult.FAILURE


def _otlp(spec: ExportSpec) -> SpanExporter:
    session = requests.Session()
    session.trust_env = False  # no proxies, no credentials and no authorities but those of the configuration
    return OTLPSpanExporter(
        endpoint=spec.otlp_endpoint,
        certificate_file=spec.ca_file,
        headers=dict(spec.otlp_headers),
        timeout=EXPORT_SECONDS,
        session=session,
    )


def senders(spec: ExportSpec, origin: Origin, words: LastWords) -> dict[str, Send]:
    """How to send a batch to each collector of ``spec``, by the exporter's name."""
    found: dict[str, Send] = {}
    if spec.jaeger_endpoint is not None:
        endpoint = spec.jaeger_endpoint
        found["jaeger"] = _send(lambda: _Jaeger(endpoint, spec.ca_file), origin, words)
    if spec.otlp_endpoint is not None:
        found["otlp"] = _send(lambda: _otlp(spec), origin, words)
    return found


def _send(make: Callable[[], SpanExporter], origin: Origin, words: LastWords) -> Send:
    exporter: SpanExporter | None = None

    def send(batch: Sequence[Span]) -> None:
        nonlocal exporter
        try:
            if exporter is None:
                exporter = make()  # with the first batch: authorities that cannot be read are a failure like others
            result = exporter.export([readable(span, origin) for span in batch])
        except (OSError, HTTPException) as error:  # what requests raises is an OSError too
            raise Unreachable(f"{type(error).__name__}: {error}"[:300]) from error
        if result is not SpanExportResult.SUCCESS:
            raise Refused(words.take() or "the collector refused it")

    return send
