"""The tracing block: what it accepts, and what becomes of it."""

from __future__ import annotations

import pytest

from charon.config.compile import compile_settings
from charon.config.schema.tracing import FORMATS
from charon.config.settings import ExportSpec
from charon.config.snapshot import TracingSpec
from charon.wire import tracecontext
from tests.config.support import Folder

TARGET = "target_service_addr: a:1\n"


def test_off_by_default_and_when_only_the_old_keys_are_given(folder: Folder) -> None:
    off = "tracing: {enabled: false, jaeger_endpoint: 'http://localhost:14268/api/traces', service_name: x}"
    for text in (TARGET, TARGET + off):
        settings = compile_settings(folder.load(text))
        assert (settings.tracing, settings.export) == (None, None)


def test_everything_that_can_be_said(folder: Folder) -> None:
    text = """
tracing:
  enabled: true
  jaeger_endpoint: http://localhost:14268/api/traces
  otlp_endpoint: https://[::1]:4318/v1/traces?tenant=1
  otlp_headers: {Authorization: Bearer x}
  ca_file: ca.pem
  service_name: shop
  sample_ratio: 0.25
  propagation: [b3, W3C, b3]
"""
    config = folder.load(TARGET + text)
    settings = compile_settings(config)
    assert settings.tracing == TracingSpec(0.25, ("b3", "w3c"), True)
    assert settings.export == ExportSpec(
        "shop",
        "http://localhost:14268/api/traces",
        "https://[::1]:4318/v1/traces?tenant=1",
        (("Authorization", "Bearer x"),),
        str(config.file.parent / "ca.pem"),
    )
    assert "Bearer" not in repr(settings.export), "it may be shown, the secret may not"


def test_without_an_endpoint_nothing_is_recorded(folder: Folder) -> None:
    settings = compile_settings(folder.load(TARGET + "tracing: {enabled: true, propagation: b3multi}"))
    assert (settings.tracing, settings.export) == (TracingSpec(1.0, ("b3multi",), False), None)


def test_the_words_are_those_of_the_data_path() -> None:
    assert FORMATS == tracecontext.FORMATS


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("propagation", "w3", "'w3' is not known (did you mean w3c?); write w3c, b3 or b3multi, or a list of them"),
        ("propagation", "[b3, {}]", "a block of keys is given where a format is expected"),
        ("propagation", "[]", "the list is empty; write w3c, b3 or b3multi, or a list of them"),
        ("sample_ratio", "2", "'2' is not allowed; write a number from 0 to 1"),
        (
            "otlp_endpoint",
            "localhost:4318",
            "'localhost:4318' is not an endpoint; write http://host:port/path or https://...",
        ),
        (
            "otlp_endpoint",
            "http://a:99999",
            "'http://a:99999' is not an endpoint; write http://host:port/path or https://...",
        ),
        ("otlp_endpoint", "http://", "'http://' is not an endpoint; write http://host:port/path or https://..."),
        (
            "jaeger_endpoint",
            "'http://a b/'",
            "'http://a b/' is not an endpoint; write http://host:port/path or https://...",
        ),
        (
            "jaeger_endpoint",
            "http://u:p@a/",
            "'http://***@a/' is not an endpoint; write http://host:port/path or https://...",
        ),
    ],
)
def test_mistakes(folder: Folder, key: str, value: str, problem: str) -> None:
    assert folder.problems(TARGET + f"tracing: {{enabled: true, {key}: {value}}}") == [f"2: tracing.{key}: {problem}"]
