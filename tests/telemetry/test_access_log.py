"""Access lines: one for each request and connection, in the shape of the event log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.names import NO_UPSTREAM
from charon.telemetry.access_log import AccessLog
from charon.telemetry.sink import MAX_LINE
from tests.telemetry.conftest import Lines
from tests.telemetry.test_events import HOSTILE

NOON = 1_714_564_800.0  # 2024-05-01T12:00:00Z


def access_log(lines: Lines, wall: float = NOON, **settings: str) -> AccessLog:
    return AccessLog(lines, wall=lambda: wall, **settings)  # type: ignore[arg-type]


def request(log: AccessLog, **changed: Any) -> None:
    log.http(
        **{
            "method": "GET", "path": "/users/7?full=1", "upstream": "localhost:9091", "status": 200,
            "seconds": 0.0012349, "size_bytes": 512, "listener": "http", "route": "users",
            "client": "127.0.0.1:51234", "bytes_in": 0, "retries": 0, "reason": None, "protocol": "HTTP/1.1",
            **changed,
        }
    )  # fmt: skip


def test_a_request(lines: Lines) -> None:
    request(access_log(lines))
    assert lines.raw == [
        b'{"timestamp":"2024-05-01T12:00:00.000Z","level":"info","message":"http_request","method":"GET",'
        b'"path":"/users/7?full=1","upstream":"localhost:9091","status":200,"latency_ms":1.234,"size_bytes":512,'
        b'"listener":"http","route":"users","client":"127.0.0.1:51234","bytes_in":0,"retries":0,'
        b'"protocol":"HTTP/1.1"}\n'
    ]


def test_reason_trace_and_identity_stand_there_when_there_are_any(lines: Lines) -> None:
    identity = "spiffe://mesh/ns/default/sa/web"
    request(access_log(lines), status=502, reason="upstream_reset", trace_id="ab" * 16, identity=identity)
    line = lines.last()
    assert (line["reason"], line["trace_id"], line["identity"]) == ("upstream_reset", "ab" * 16, identity)


def test_lines_with_a_reason_are_warnings_and_an_upstreams_own_500_is_none(lines: Lines) -> None:
    log = access_log(lines)
    request(log, status=500)
    assert lines.last()["level"] == "info"
    request(log, status=503, reason="no_endpoint", upstream=NO_UPSTREAM)
    assert (lines.last()["level"], lines.last()["upstream"]) == ("warning", "none")


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 4), ("warning", 2), ("error", 0)])
def test_the_level_of_the_log_holds_for_access_lines(lines: Lines, level: str, shown: int) -> None:
    log = access_log(lines)
    log.set_level(level)
    request(log)
    request(log, reason="client_abort", status=499)
    log.tcp("db", "10.0.0.1:5000", "10.0.0.9:5432", 1.5, 10, 20)
    log.tcp("db", "10.0.0.1:5000", "10.0.0.9:5432", 1.5, 10, 20, "idle_timeout")
    assert len(lines.raw) == shown


def test_a_connection(lines: Lines) -> None:
    access_log(lines).tcp("db", "10.0.0.1:5000", "10.0.0.9:5432", 61.5, 10, 20, "idle_timeout", "spiffe://mesh/a")
    assert lines.last() == {
        "timestamp": "2024-05-01T12:00:00.000Z", "level": "warning", "message": "tcp_connection", "listener": "db",
        "client": "10.0.0.1:5000", "upstream": "10.0.0.9:5432", "duration_ms": 61500.0, "bytes_in": 10,
        "bytes_out": 20, "reason": "idle_timeout", "identity": "spiffe://mesh/a",
    }  # fmt: skip


def test_times_have_fresh_milliseconds_and_follow_the_seconds(lines: Lines) -> None:
    times = iter([NOON + 0.0004, NOON + 0.9999, NOON + 1.25, NOON - 3600])
    log = AccessLog(lines, wall=lambda: next(times))  # type: ignore[arg-type]
    for _ in range(4):
        request(log)
    assert [json.loads(raw)["timestamp"][11:] for raw in lines.raw] == [
        "12:00:00.000Z", "12:00:00.999Z", "12:00:01.250Z", "11:00:00.000Z",
    ]  # fmt: skip


def test_long_paths_are_cut(lines: Lines) -> None:
    request(access_log(lines), path="/" + "x" * 100_000)
    assert len(lines.last()["path"]) == 1000 and lines.last()["path"].endswith("x…")


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
@pytest.mark.parametrize("field", ["path", "method", "identity", "client"])
def test_nothing_a_client_sends_forges_a_line_or_field(lines: Lines, field: str, value: str) -> None:
    log = access_log(lines)
    request(log)
    usual = lines.last()
    request(log, **{field: value})
    raw = lines.raw[-1]
    assert len(raw.decode().splitlines()) == 1 and raw[:-1].decode().isprintable()
    line = lines.last()
    expected = value if value != "\udcff\ud800" else "\\udcff\\ud800"
    assert line == usual | {field: expected}


texts = st.text(max_size=50) | st.text(alphabet=st.characters(categories=["Cc", "Cs", "Cf", "Lo"]), min_size=1500)


@given(method=texts, path=texts, client=texts, identity=texts, fmt=st.sampled_from(["json", "console"]))
def test_any_texts_make_one_bounded_line(method: str, path: str, client: str, identity: str, fmt: str) -> None:
    lines = Lines()
    request(access_log(lines, fmt=fmt), method=method, path=path, client=client, identity=identity)
    (raw,) = lines.raw
    assert len(raw) <= MAX_LINE
    assert raw.count(b"\n") == 1 and len(raw.decode().splitlines()) == 1


def test_the_console_format(lines: Lines) -> None:
    request(access_log(lines, fmt="console"), path="/a b\x1b[2J status=200")
    assert lines.last_text() == (
        "2024-05-01T12:00:00.000Z INFO    http_request             200 GET          1.2 ms "
        '"/a b\\x1b[2J status=200" upstream=localhost:9091 size_bytes=512 '
        "listener=http route=users client=127.0.0.1:51234 bytes_in=0 retries=0 protocol=HTTP/1.1\n"
    )


def test_console_lines_of_requests_stand_in_columns(
    lines: Lines, terminal: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    log = access_log(lines, fmt="console")
    request(log, method="", path="", status=400, seconds=12.3456, reason="bad_request")
    request(log, method="DELETE", path="/b", status=204)
    places = [text.decode().index(" ms ") for text in lines.raw]
    assert len(set(places)) == 1
    for status, colour in ((200, 32), (404, 33), (503, 31)):
        request(access_log(terminal, fmt="console"), status=status)
        assert f"\x1b[{colour}m{status}\x1b[0m GET" in terminal.last_text()


def test_unknown_formats_are_refused(lines: Lines) -> None:
    with pytest.raises(ValueError):
        access_log(lines, fmt="xml")


def test_excluded_paths_are_prefixes_in_whole_segments_and_hide_no_failure(lines: Lines) -> None:
    log = access_log(lines)
    log.choose(1.0, ("/healthz", "/static/"))
    hidden = ("/healthz", "/healthz/deep", "/static/", "/static/a.css")
    shown = ("/healthzz", "/", "/x/healthz", "/static")
    for path in (*hidden, *shown):
        request(log, path=path)
    assert [json.loads(raw)["path"] for raw in lines.raw] == list(shown)
    request(log, path="/healthz", status=503)
    request(log, path="/healthz", status=499, reason="client_abort")
    assert [json.loads(raw)["status"] for raw in lines.raw[-2:]] == [503, 499]
    log.choose(1.0, ())
    request(log, path="/healthz")
    assert lines.last()["path"] == "/healthz"


def test_a_sample_is_a_share_of_what_went_well(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    log = access_log(lines)
    dice = iter([0.0, 0.2499, 0.25, 0.9, 0.1, 0.3])
    monkeypatch.setattr("random.random", lambda: next(dice))
    log.choose(0.25, ())
    for status in (200, 404, 201, 302):
        request(log, status=status)
    request(log, status=500)
    request(log, status=200, reason="upstream_truncated")
    log.tcp("db", "10.0.0.1", "10.0.0.9:5432", 1.5, 10, 20)
    log.tcp("db", "10.0.0.2", "10.0.0.9:5432", 1.5, 10, 20)
    log.tcp("db", "10.0.0.3", "10.0.0.9:5432", 1.5, 10, 20, "idle_timeout")
    told = [json.loads(raw) for raw in lines.raw]
    assert [line.get("status", line["client"]) for line in told] == [200, 404, 500, 200, "10.0.0.1", "10.0.0.3"]
