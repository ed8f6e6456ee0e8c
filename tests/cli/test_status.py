"""``charon status`` for people: an aligned table, and the same again every second."""

from __future__ import annotations

import io
import os
import pty
import threading
from typing import Any

from charon.base.errors import StartError
from charon.cli.status_table import table
from charon.cli.terminal import Style
from charon.cli.watch import _clip, watch

LATENCY = {"p50": 1.5, "p90": 12.0, "p99": 1250.0}
ENDPOINT = {
    "endpoint": "10.0.0.5:80", "healthy": True, "breaker": "closed", "ejected": False, "in_flight": 3,
    "requests_per_second": 120.4, "errors_per_second": 1.2, "error_rate": 0.01, "latency_ms": LATENCY,
}  # fmt: skip
BROKEN = ENDPOINT | {
    "endpoint": "10.0.0.16:80", "healthy": False, "breaker": "half_open", "ejected": True, "in_flight": 0,
    "requests_per_second": 0.04, "error_rate": 1.0, "latency_ms": None,
}  # fmt: skip
STATE: dict[str, Any] = {
    "version": "1.0", "pid": 7, "uptime_seconds": 3661.2, "ready": True, "not_ready_because": None, "draining": False,
    "connections": 12, "draining_connections": 0, "predecessor": None, "config_file": "c.yaml", "config_digest": "d",
    "last_reload": {}, "last_upgrade": {}, "registry": None, "generation": 4,
    "log": {"file": None, "level": "info", "lines_dropped": 0, "write_errors": 0},
    "traffic": {
        "requests_per_second": 120.4, "errors_per_second": 1.2, "error_rate": 0.01, "latency_ms": LATENCY,
        "tcp_connections_per_second": 0.0, "retries_per_second": 0.5, "rate_limited_per_second": 2.0,
        "limits_hit": [{"route": "/login", "per_second": 2.0}], "retry_budgets_exhausted": [],
    },
    "listeners": [{
        "name": "web", "protocol": "http", "address": "[::]:8080", "tls": True, "connections": 12,
        "requests_per_second": 120.4, "error_rate": 0.01,
    }],
    "services": {"api": [ENDPOINT, BROKEN], "empty": []},
    "workers": [
        {"slot": 0, "pid": 9, "ready": True, "crash_loop": False, "generation": 4, "deaths": 0, "connections": 12},
    ],
    "certificates": [], "interception": None,
}  # fmt: skip


def test_the_table_is_aligned_and_says_it_all() -> None:
    assert table(STATE, Style(False)) == [
        "charon 1.0  pid 7  up 1h1m1s  ready",
        "12 connections",
        "configuration c.yaml d, generation 4",
        "",
        "120 requests/s  1.0% errors  latency p50 1.5ms, p90 12ms, p99 1.2s",
        "0.5 retries/s  over the limit /login: 2.0/s",
        "",
        "listeners",
        "  name  protocol   address    connections  requests/s  errors",
        "  web   http, TLS  [::]:8080           12         120    1.0%",
        "",
        "services",
        "  service  endpoint      health  breaker               in flight  requests/s  errors    p50   p99",
        "  api      10.0.0.5:80   up      closed                        3         120    1.0%  1.5ms  1.2s",
        "  api      10.0.0.16:80  down    half-open  set aside          0        0.04    100%      -     -",
        "  empty    no endpoint",
        "",
        "workers",
        "  0  pid 9  ready  12 connections",
    ]


def test_trouble_is_said_and_coloured() -> None:
    state = STATE | {
        "ready": False, "not_ready_because": "not all workers are ready",
        "log": {"file": "c.log", "level": "info", "lines_dropped": 3, "write_errors": 2},
        "registry": {"file": "r.yaml", "ok": False, "loaded_at": 0, "problems": ["r.yaml:1: no"]},
        "last_reload": {"ok": False, "at": 0, "problems": ["c.yaml:2: listen_port: no"], "digest": "d"},
        "interception": {"up": False, "table": "t", "on_stop": "open", "trouble": "no nft", "connections": {}},
        "certificates": [
            {"name": "web", "kind": "certificate", "identity": None, "days_left": -1.0, "problem": "late",
             "warnings": [], "file": "web.pem"},
            {"name": "ca", "kind": "authority", "identity": "spiffe://x", "days_left": 0.1, "problem": None,
             "warnings": ["a", "b"], "file": "ca.pem"},
        ],
    }  # fmt: skip
    plain = "\n".join(table(state, Style(False)))
    said = "not ready: not all", "log c.log: 2 failures", "  r.yaml:1: no", "refused", "  c.yaml:2: listen_port: no"
    for text in (*said, "  trouble  no nft"):
        assert text in plain
    assert "  certificate  web         expired" in plain and "web.pem  late\n" in plain + "\n"
    assert "  authority    spiffe://x  2 hours left" in plain and "ca.pem   a; b" in plain
    coloured = "\n".join(table(state, Style(True)))
    assert "\033[31mexpired\033[0m" in coloured and "\033[33m2 hours left\033[0m" in coloured
    assert "\033[31mdown\033[0m" in coloured


def test_a_line_is_cut_without_cutting_its_marks() -> None:
    assert _clip("\033[31mred\033[0m and more", 5) == "\033[31mred\033[0m a"
    assert _clip("plain", 3) == "pla"


def test_watching_on_a_terminal_ends_with_q_and_brings_the_screen_back() -> None:
    ours, theirs = pty.openpty()
    seen: list[str] = []
    looks = iter([["first"], StartError("nobody is there"), ["third"]])

    def look() -> list[str]:
        found = next(looks)
        if isinstance(found, StartError):
            raise found
        if found == ["third"]:
            os.write(ours, b"q")
        return found

    def read() -> None:
        while "\033[?1049l" not in "".join(seen):
            seen.append(os.read(ours, 4096).decode())

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "r+b", buffering=0) as raw:
        terminal = io.TextIOWrapper(raw, write_through=True)
        watch(look, terminal, terminal)
        reader.join(10)
        terminal.detach()
    os.close(ours)
    text = "".join(seen)
    assert text.startswith("\033[?1049h") and text.index("first") < text.index("nobody is there") < text.index("third")
    assert text.rstrip().endswith("\033[?1049l")
