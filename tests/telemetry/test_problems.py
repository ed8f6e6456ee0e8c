"""What went wrong of late: bounded, one kind never in the way of another, and safe to show."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from charon.telemetry.problems import MAX_KEPT, MAX_REPORTED, Problems, RecentProblems


def line(message: str = "http_request", **fields: Any) -> dict[str, Any]:
    return {"timestamp": "t", "level": "warning", "message": message, **fields}


def test_a_flood_of_one_kind_leaves_room_for_others() -> None:
    problems = Problems()
    for number in range(1000):
        problems.add(line(reason="rate_limited", status=429, path=f"/{number}"))
    problems.add(line(reason="circuit_open", status=503, upstream="a:1"))
    told = problems.take()
    assert [one.get("path") for one in told] == ["/0", "/1", "/2", None]
    assert told[2]["repeated"] == 997 and "repeated" not in told[0]
    assert problems.take() == []


def test_many_kinds_are_bounded_too_and_counted() -> None:
    problems = Problems()
    for number in range(MAX_REPORTED + 7):
        problems.add(line(f"event_{number}"))
    told = problems.take()
    assert len(told) == MAX_REPORTED and told[-1]["repeated"] == 7
    problems.add(line("event_0"))
    assert len(problems.take()) == 1, "the next second begins anew"


def test_a_line_is_bounded_and_becomes_json_whatever_is_in_it() -> None:
    problems = Problems()
    given = line(error=OSError("gone"), path="x" * 5000, odd="\udcff", items=list(range(100)), big=1 << 80)
    given |= {f"field_{number}": number for number in range(100)}
    problems.add(given)
    (told,) = problems.take()
    assert len(orjson.dumps(told)) < 4000
    assert told["error"] == "OSError: gone" and len(told["path"]) == 300
    assert given["path"] == "x" * 5000, "the line itself is not touched"


def test_the_last_ones_are_kept_and_numbered() -> None:
    recent = RecentProblems()
    for number in range(MAX_KEPT + 10):
        recent.add(line(number=number))
    kept = recent.since(0)
    assert (recent.last, len(kept), kept[0]["id"], kept[-1]["id"]) == (MAX_KEPT + 10, MAX_KEPT, 11, MAX_KEPT + 10)
    assert [one["number"] for one in recent.since(MAX_KEPT + 8)] == [MAX_KEPT + 8, MAX_KEPT + 9]
    assert recent.since(recent.last) == []


def test_what_a_worker_reports_is_held_to_what_it_may_say() -> None:
    recent = RecentProblems()
    recent.add_reported([line(path="y" * 5000)] * (MAX_REPORTED * 2), 3)
    assert len(recent.since(0)) == MAX_REPORTED
    assert recent.since(0)[0]["worker"] == 3 and len(recent.since(0)[0]["path"]) == 300
    for nonsense in ({}, "text", [1], [line(), None], None):
        with pytest.raises(ValueError):
            recent.add_reported(nonsense, 0)
