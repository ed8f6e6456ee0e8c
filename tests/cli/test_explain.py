"""``charon explain``: the story of one request, from the log."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from charon.base import errors
from charon.base.advice import ADVICE
from charon.base.errors import Reason
from charon.cli import explain, main
from charon.cli.story import stories
from charon.cli.terminal import Style

PLAIN = Style(False)
ID = "7f3c2b"
REQUEST = {
    "timestamp": "2026-03-01T12:00:01.250Z", "level": "info", "message": "http_request", "method": "GET",
    "path": "/api/users", "upstream": "10.0.0.6:80", "status": 200, "latency_ms": 250.0, "size_bytes": 17,
    "listener": "web", "route": "/api", "client": "10.1.1.1", "bytes_in": 0, "retries": 1, "protocol": "HTTP/1.1",
    "request_id": ID,
}  # fmt: skip
TRY = {
    "timestamp": "2026-03-01T12:00:01.003Z", "level": "warning", "message": "upstream_error", "worker": 1,
    "service": "api", "upstream": "10.0.0.5:80", "reason": "connect_refused", "error": "Connection refused",
    "method": "GET", "tries": 1, "request_id": ID,
}  # fmt: skip


def lines(*given: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in given)


def test_every_reason_has_its_advice() -> None:
    reasons = [value for value in vars(errors).values() if isinstance(value, Reason)]
    assert len(reasons) > 30
    for reason in reasons:
        assert ADVICE.get(reason.word, "").endswith("."), f"charon/base/advice.py says nothing about {reason.word}"


def test_a_request_that_was_tried_again() -> None:
    assert stories([TRY, REQUEST], PLAIN) == [
        [
            "GET /api/users  2026-03-01 12:00:01.000+00:00",
            "  came from 10.1.1.1 to the listener web",
            "  request_id 7f3c2b",
            "  fell under the route /api",
            "  12:00:01.003 try 1, api at 10.0.0.5:80: connect_refused (Connection refused)",
            "  answered 200 by 10.0.0.6:80 at try 2 after 250.0 ms, 17 bytes",
            "  it went well",
        ]
    ]


def test_a_refusal_of_charons_own_says_what_to_do() -> None:
    refused = REQUEST | {"status": 503, "reason": "circuit_open", "upstream": "none", "retries": 0, "route": ""}
    (story,) = stories([refused], PLAIN)
    assert story[3] == "  fell under no route: the listener's default"
    assert story[-3] == "  answered 503 by Charon itself after 250.0 ms, 17 bytes"
    assert story[-2] == f"  circuit_open: {errors.CIRCUIT_OPEN.text}"
    assert story[-1] == f"  {ADVICE['circuit_open']}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": 502, "reason": "upstream_reset"}, "by Charon, the last endpoint asked being 10.0.0.6:80"),
        ({"status": 499, "reason": "client_abort"}, "the client left while 10.0.0.6:80 worked on it"),
        ({"status": 499, "reason": "client_abort", "upstream": "none"}, "bytes: the client left"),
        ({"status": 500}, ADVICE["upstream_status"]),
        ({"status": 503, "reason": "of_the_future"}, "this version does not know that reason"),
        ({"identity": "spiffe://a/b"}, "10.1.1.1, who is spiffe://a/b"),
        ({"latency_ms": "odd", "timestamp": 7}, "GET /api/users  7"),
    ],
)
def test_what_else_can_happen(changes: dict[str, Any], said: str) -> None:
    (story,) = stories([REQUEST | changes], PLAIN)
    assert said in "\n".join(story)


def test_requests_of_one_trace_are_told_apart_and_a_pending_one_is_said_to_be() -> None:
    def of(span: str, line: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in line.items() if key != "request_id"} | {"trace_id": "t", "span_id": span}

    limited = of("c", {"timestamp": "2026-03-01T12:00:03.000Z", "message": "rate_limited", "limit": "/x"})
    told = stories([of("a", TRY), of("b", REQUEST), of("a", REQUEST), limited], PLAIN)
    assert [sum("try 1, api" in line for line in story) for story in told] == [0, 1, 0]
    assert told[2][:2] == ["no access line", "  12:00:03.000 rate_limited limit=/x"]


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("target_service_addr: a:1\nlogging: {file: logs/charon.log}\n")
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_the_log_is_found_by_the_configuration_with_what_was_rotated_away(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "charon.log.2.gz").write_bytes(gzip.compress(lines({"message": "other"}, TRY)))
    (folder / "charon.log.1").write_bytes(lines({"message": "other", "path": f"/{ID}"}))
    (folder / "charon.log").write_bytes(lines(REQUEST) + b"half a li")
    for age, name in ((300, "charon.log.2.gz"), (200, "charon.log.1"), (100, "charon.log")):
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    assert main.main(["explain", ID]) == 0
    told = capsys.readouterr().out
    assert "try 1, api at 10.0.0.5:80" in told and "answered 200 by 10.0.0.6:80" in told


def test_standard_input_with_what_a_journal_puts_in_front(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = b"Mar 01 12:00:01 host charon[7]: " + lines(REQUEST)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(journal)))
    assert main.main(["explain", ID, "--log", "-"]) == 0
    assert capsys.readouterr().out.startswith("GET /api/users")


def test_what_is_not_there_is_said_plainly(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = folder / "charon.log"
    log.write_bytes(lines(REQUEST))
    assert main.main(["explain", "nobody"]) == 1
    assert "no line about 'nobody'" in (error := capsys.readouterr().err) and "request_id: true" in error
    log.write_text(f"2026-03-01 INFO http_request request_id={ID}\n")
    assert main.main(["explain", ID]) == 1
    assert "only logging.format json" in capsys.readouterr().err
    assert main.main(["explain", ID, "--log", "not/there"]) == 1
    assert "not/there: cannot be read" in capsys.readouterr().err
    Path("config.yaml").write_text("target_service_addr: a:1\n")
    assert main.main(["explain", ID]) == 1
    assert "--log" in capsys.readouterr().err


def test_a_reader_looks_only_at_lines_that_hold_the_id() -> None:
    read = explain.Reader(ID)
    assert list(read.select([b'{"request_id":"7f3c2b"', b"{nonsense}", b"text", lines({"path": ID})])) == []
    assert (read.seen, read.foreign) == (4, 2)
