"""The exporters at a real collector, over TLS and not: whatever goes wrong there becomes one of two errors."""

from __future__ import annotations

import logging
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from charon.config.settings import ExportSpec
from charon.daemon.span_formats import LastWords, Origin, senders
from charon.daemon.span_sender import Refused, Send, Unreachable
from charon.daemon.tracing import environment
from charon.telemetry.spans import Span
from tests.harness.backends import refused_address
from tests.harness.collector import Collector

SPAN = Span(
    "0af7651916cd43dd8448eb211c80319c", "f7ad6b7169203331", "97ad6b7169203331", True, "a=1,b=2", True, "GET",
    1_700_000_000_000_001_000, 1_700_000_000_000_003_000, True, {"url.path": "/\u00e9", "server.port": 80},
)  # fmt: skip
WORDS = LastWords()


def made(endpoint: str, *, ca_file: Path | None = None) -> list[Send]:
    """Both exporters, at ``endpoint``."""
    spec = ExportSpec(
        "shop", f"{endpoint}/api/traces?tenant=1", f"{endpoint}/v1/traces", (("X-Key", "1"),), ca_file and str(ca_file)
    )
    return list(senders(spec, Origin.of("shop", "1.0", "abc"), WORDS).values())


@pytest.fixture(autouse=True)
def _words() -> Iterator[None]:
    logging.getLogger().addHandler(WORDS)
    yield
    logging.getLogger().removeHandler(WORDS)


def test_a_span_arrives_whole_in_both_formats() -> None:
    with Collector() as collector:
        for send in made(f"http://127.0.0.1:{collector.port}"):
            send([SPAN])
        jaeger, otlp = collector.spans
        paths = [path for _, path, _ in collector.requests]
        assert paths == ["/api/traces?tenant=1", "/v1/traces"], "to exactly these URLs"
        assert collector.requests[1][2]["x-key"] == "1"
    for seen in (jaeger, otlp):
        assert (seen.service, seen.trace_id, seen.span_id, seen.parent_id) == ("shop", *SPAN[:3])
        assert (seen.kind, seen.name, seen.start, seen.end, seen.error) == ("server", "GET", *SPAN[7:10])
        assert SPAN.attributes.items() <= seen.attributes.items()
    assert (otlp.state, otlp.remote) == ("a=1,b=2", True)


def test_a_collector_that_is_not_there_may_be_later() -> None:
    sends = made(f"http://{refused_address()}")
    for send in sends:
        with pytest.raises(Unreachable, match="refused"):
            send([SPAN])


def test_a_collector_that_says_no_has_said_no() -> None:
    with Collector() as collector:
        sends = made(f"http://127.0.0.1:{collector.port}")
        collector.status = 400
        for send in sends:
            with pytest.raises(Refused, match="400"):
                send([SPAN])
        collector.status = 200
        for send in sends:
            send([SPAN])
        assert len(collector.spans) == 2


def test_tls_is_checked_by_the_given_authority_and_by_none_other(tmp_path: Path) -> None:
    files = []
    for name in ("right", "wrong"):
        key, cert = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=collector"
        where = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
        subprocess.run([*command.split(), *where], check=True, capture_output=True)
        files.append(cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[0], tmp_path / "right.key")
    with Collector(context) as collector:
        endpoint = f"https://127.0.0.1:{collector.port}"
        for send in made(endpoint, ca_file=files[0]):
            send([SPAN])
        assert {span.format for span in collector.spans} == {"jaeger", "otlp"}
        for ca_file in (files[1], None, tmp_path / "missing.pem"):
            for send in made(endpoint, ca_file=ca_file):
                with pytest.raises(Unreachable):
                    send([SPAN])
        assert len(collector.spans) == 2


def test_the_environment_overrules_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("PATH", "/bin")
    assert environment().keys().isdisjoint({"OTEL_EXPORTER_OTLP_HEADERS", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"})
    assert environment()["PATH"] == "/bin"
