"""The event log: its shape, its levels, and that no value in it can pretend to be more than a value."""

from __future__ import annotations

import json
import logging
import re
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charon.base.names import Event
from charon.telemetry.events import EventLog
from charon.telemetry.sink import MAX_LINE
from tests.telemetry.conftest import Lines

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HOSTILE = [
    'x","level":"error","forged":"1',
    'x\n{"message":"forged"}',
    "x\r\nforged",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\u2028\u2029\x85\u202e\ufeff",
    "\x7f\x00\x08",
    "back\\slash\\n",
    "\udcff\ud800",
]


def log(lines: Lines, **settings: Any) -> EventLog:
    return EventLog(lines, **settings)  # type: ignore[arg-type]


def failure() -> ZeroDivisionError:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        return error
    raise AssertionError


def test_a_line_is_time_level_name_then_fields_in_their_order(lines: Lines) -> None:
    log(lines, worker=3).info(Event.PROXY_STARTED, listeners=2, address=":8080", ratio=0.5, tls=False, service=None)
    line = lines.last()
    assert list(line) == ["timestamp", "level", "message", "worker", "listeners", "address", "ratio", "tls", "service"]
    assert TIMESTAMP.fullmatch(line.pop("timestamp"))
    assert line == {
        "level": "info", "message": "charon_proxy_started", "worker": 3,
        "listeners": 2, "address": ":8080", "ratio": 0.5, "tls": False, "service": None,
    }  # fmt: skip


def test_levels_are_lower_case_and_lower_ones_are_left_out(lines: Lines) -> None:
    events = log(lines, level="warning")
    events.debug("a")
    events.info("b")
    events.warning("c")
    events.error("d")
    assert [json.loads(raw)["level"] for raw in lines.raw] == ["warning", "error"]
    events.set_level("debug")
    assert events.level == "debug"
    events.event("debug", "e")
    assert lines.last()["message"] == "e"


@pytest.mark.parametrize(
    "settings", [{"level": "loud"}, {"fmt": "xml"}, {"environment": "staging"}], ids=["level", "format", "environment"]
)
def test_unknown_settings_are_refused(lines: Lines, settings: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        log(lines, **settings)


def test_a_field_may_have_any_name_but_cannot_replace_the_head(lines: Lines) -> None:
    log(lines).info("event", name="n", level="forged", message="forged", timestamp="forged", args=1, module=2, msg=3)
    line = lines.last()
    assert (line["level"], line["message"]) == ("info", "event")
    assert (line["level_"], line["message_"], line["timestamp_"]) == ("forged", "forged", "forged")
    assert (line["name"], line["args"], line["module"], line["msg"]) == ("n", 1, 2, 3)


def test_percent_signs_are_text(lines: Lines) -> None:
    log(lines).info("100%s", path="%d%s%(x)s")
    assert (lines.last()["message"], lines.last()["path"]) == ("100%s", "%d%s%(x)s")


def test_an_exception_gives_error_and_stack(lines: Lines) -> None:
    log(lines).error(Event.INTERNAL_ERROR, exc=failure())
    line = lines.last()
    assert line["error"] == "ZeroDivisionError: division by zero"
    assert "in failure" in line["stack"] and line["stack"].endswith("ZeroDivisionError: division by zero")


def test_development_shows_callers_and_the_stacks_of_warnings(lines: Lines) -> None:
    events = log(lines, environment="development")
    events.info("a")
    assert lines.last()["caller"].startswith("test_events.py:")
    assert "stack" not in lines.last()
    events.warning("b")
    assert "test_development_shows_callers" in lines.last()["stack"]
    log(lines).warning("c")
    assert not {"caller", "stack"} & lines.last().keys()


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_json_values_cannot_forge_lines_fields_or_terminal_commands(lines: Lines, value: str) -> None:
    log(lines).info("event", path=value, after=1)
    raw = lines.raw[-1]
    assert len(raw.decode().splitlines()) == 1 and raw.endswith(b"}\n")
    assert raw[:-1].decode().isprintable()
    line = lines.last()
    assert list(line) == ["timestamp", "level", "message", "path", "after"]
    assert line["path"] == (value if value != "\udcff\ud800" else "\\udcff\\ud800")


def test_bytes_that_are_no_utf8_show_as_escapes(lines: Lines) -> None:
    log(lines).info("event", a=b"caf\xc3\xa9 \xff", b="x\udcfe")
    assert (lines.last()["a"], lines.last()["b"]) == ("café \\xff", "x\\xfe")


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_console_values_cannot_forge_lines_fields_or_terminal_commands(lines: Lines, value: str) -> None:
    log(lines, fmt="console").info("event", path=value, after=1)
    text = lines.last_text()
    assert text.endswith(" after=1\n") and text[:-1].isprintable()
    assert re.fullmatch(r'\S+ INFO    event\s+ path=("([^"\\]|\\.)*"|[^\s"\\]+) after=1\n', text)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.text(alphabet=st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "So"]), min_size=900, max_size=1200),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abcdefgh"), values))
def test_any_fields_make_one_bounded_line(fields: dict[str, Any]) -> None:
    lines = Lines()
    log(lines).info("event", **fields)
    log(lines, fmt="console").info("event", **fields)
    raw, shown = lines.raw
    assert len(raw) <= MAX_LINE and len(shown) <= MAX_LINE
    assert len(raw.decode().splitlines()) == 1
    assert shown[:-1].decode().isprintable()
    assert set(json.loads(raw)) - {"timestamp", "level", "message", "truncated"} <= set(fields)


def test_long_values_are_cut_and_far_too_much_is_left_out(lines: Lines) -> None:
    log(lines).info("event", path="x" * 5000, after=1)
    assert lines.last()["path"] == "x" * 999 + "…" and lines.last()["after"] == 1
    log(lines).info("event", **{f"field{number}": "\x01" * 5000 for number in range(100)})
    assert len(lines.raw[-1]) <= MAX_LINE
    assert lines.last()["truncated"] is True and "field0" in lines.last()


def test_of_a_long_stack_the_end_stays(lines: Lines) -> None:
    def fall(depth: int) -> None:
        if not depth:
            raise ValueError("the bottom")
        fall(depth - 1)

    try:
        fall(200)
    except ValueError as error:
        error.add_note("x" * 2000)
        error.add_note("the end")
        log(lines).error("event", exc=error)
    assert len(lines.raw[-1]) <= MAX_LINE
    assert lines.last()["stack"].endswith("the end")


def test_console_lines_are_for_people(lines: Lines) -> None:
    log(lines, fmt="console").warning("health_change", upstream="10.0.0.5:80", error="no route", empty="")
    text = lines.last_text()
    assert TIMESTAMP.match(text)
    assert text[24:] == ' WARNING health_change            upstream=10.0.0.5:80 error="no route" empty=""\n'


def test_console_stacks_follow_indented_so_that_they_cannot_be_lines(lines: Lines) -> None:
    log(lines, fmt="console").error("event", exc=ValueError("x\n2024-01-01T00:00:00.000Z INFO forged\x1b[0m"))
    first, *rest = lines.last_text().splitlines()
    assert TIMESTAMP.match(first)
    assert rest and all(line.startswith("    ") and line.isprintable() for line in rest)


def test_colours_only_on_a_terminal_without_no_color(
    lines: Lines, terminal: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    log(terminal, fmt="console").error("event")
    assert "\x1b[31mERROR  \x1b[0m" in terminal.last_text()
    log(lines, fmt="console").error("event")
    assert "\x1b" not in lines.last_text()
    monkeypatch.setenv("NO_COLOR", "1")
    log(terminal, fmt="console").error("event")
    assert "\x1b" not in terminal.last_text()


def test_what_libraries_say_becomes_events(lines: Lines) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        log(lines).capture_libraries()
        logging.getLogger("some.library").warning("lost %s", "contact")
        assert lines.last() | {"timestamp": ""} == {
            "timestamp": "", "level": "warning", "message": "library_log",
            "logger": "some.library", "text": "lost contact",
        }  # fmt: skip
        logging.getLogger("some.library").info("chatter")
        assert len(lines.raw) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old ways", DeprecationWarning, stacklevel=1)
        assert "old ways" in lines.last()["text"]
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before[0]
        root.setLevel(before[1])
