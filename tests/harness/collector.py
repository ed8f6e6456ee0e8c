"""A stand-in for a trace collector: takes OTLP and Jaeger's Thrift over HTTP, and reads both by their own libraries."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.exporter.jaeger.thrift.gen.jaeger import Collector as jaeger
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

from tests.harness import PATIENCE

_KINDS = {2: "server", 3: "client"}


@dataclass(frozen=True)
class SeenSpan:
    """A span as a collector has it. Times are nanoseconds; Thrift has microseconds. ``parent_id`` is empty for none."""

    format: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    name: str
    start: int
    end: int
    error: bool
    attributes: dict[str, Any]
    state: str = ""
    remote: bool = False


class Collector:
    """Listens on 127.0.0.1. ``status`` is what it answers with; while ``gate`` is not set, it does not answer.

    ``requests`` holds method, path and header fields (names in lower case) of each request.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self.spans: list[SeenSpan] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._changed = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                collector.gate.wait(PATIENCE)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, method: str, path: str, fields: dict[str, str], body: bytes) -> None:
        spans = []
        if self.status == 200:
            spans = read_thrift(body) if "thrift" in fields["content-type"] else read_otlp(body)
        with self._changed:
            self.requests.append((method, path, fields))
            self.spans += spans
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[list[SeenSpan]], bool]) -> list[SeenSpan]:
        """All spans, once ``condition`` holds of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.spans), PATIENCE), self.spans
            return list(self.spans)

    def trace(self, trace_id: str, count: int, format: str = "otlp") -> list[SeenSpan]:
        """The spans of one trace in one format, in the order of their beginnings, once there are ``count``."""

        def of_trace(spans: list[SeenSpan]) -> list[SeenSpan]:
            return [span for span in spans if (span.trace_id, span.format) == (trace_id, format)]

        spans = of_trace(self.wait_for(lambda spans: len(of_trace(spans)) >= count))
        assert len(spans) == count, spans
        return sorted(spans, key=lambda span: (span.start, -span.end))

    def wait_for_requests(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE)


def read_otlp(body: bytes) -> list[SeenSpan]:
    """The spans of an OTLP request."""
    request = ExportTraceServiceRequest.FromString(body)
    found = []
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            assert scope.scope.name == "charon"
            for span in scope.spans:
                found.append(
                    SeenSpan(
                        "otlp",
                        service,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        _KINDS[span.kind],
                        span.name,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code == 2,
                        _values(span.attributes),
                        span.trace_state,
                        bool(span.flags & 0x200),
                    )
                )
    return found


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


def read_thrift(body: bytes) -> list[SeenSpan]:
    """The spans of a batch as jaeger.thrift has it."""
    batch = jaeger.Batch()
    batch.read(TBinaryProtocol(TMemoryBuffer(body)))
    found = []
    for span in batch.spans:
        tags = {
            tag.key: tag.vStr if tag.vType == 0 else tag.vBool if tag.vType == 2 else tag.vLong for tag in span.tags
        }
        found.append(
            SeenSpan(
                "jaeger",
                batch.process.serviceName,
                _hex(span.traceIdHigh) + _hex(span.traceIdLow),
                _hex(span.spanId),
                _hex(span.parentSpanId) if span.parentSpanId else "",
                tags.pop("span.kind"),
                span.operationName,
                span.startTime * 1000,
                (span.startTime + span.duration) * 1000,
                tags.pop("error", False),
                tags,
            )
        )
    return found


def _hex(number: int) -> str:
    return f"{number % (1 << 64):016x}"
