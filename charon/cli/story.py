"""What the log's lines about one request come to, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from charon.base import errors
from charon.base.advice import ADVICE
from charon.base.errors import Reason
from charon.base.names import NO_UPSTREAM, Event
from charon.cli.terminal import Style

Line = Mapping[str, Any]

IDS: Final = ("request_id", "trace_id")
"""The fields that say which request a line is about; the first is of one request, the second may be of several."""

_REASONS: Final = {reason.word: reason for reason in vars(errors).values() if isinstance(reason, Reason)}

_REQUEST_FIELDS: Final = ("span_id", "request_id")
"""What tells the requests of one trace apart, where lines have it."""


def stories(lines: Iterable[Line], style: Style) -> list[list[str]]:
    """A story for each request, in the order in which they ended. ``lines`` are in the order of the log, all of one id.

    Lines about a request that has not ended yet, or whose access line is not in the log, make a story of their own.
    """
    told: list[list[str]] = []
    waiting: list[Line] = []
    for line in lines:
        if line.get("message") == Event.HTTP_REQUEST:
            mine = [other for other in waiting if _same(other, line)]
            waiting = [other for other in waiting if not _same(other, line)]
            told.append(_ended(line, mine, style))
        else:
            waiting.append(line)
    if waiting:
        told.append([style.bold("no access line"), *(f"  {_event(line)}" for line in waiting)])
        told[-1].append("  it has not ended, or its access line is not logged (logging.access_log)")
    return told


def _same(event: Line, request: Line) -> bool:
    for field in _REQUEST_FIELDS:
        if field in event and field in request:
            return bool(event[field] == request[field])
    return True


def _ended(line: Line, events: list[Line], style: Style) -> list[str]:
    get = line.get
    lines = [style.bold(f"{get('method', '?')} {get('path', '')}") + f"  {_began(line)}"]
    ids = [f"{field} {line[field]}" for field in (*IDS, "span_id") if field in line]
    who = f", who is {get('identity')}" if get("identity") else ""
    lines.append(f"  came from {get('client', 'somebody')}{who} to the listener {get('listener', '?')}")
    lines.append(f"  {', '.join(ids)}")
    route = get("route")
    lines.append(f"  fell under the route {route}" if route else "  fell under no route: the listener's default")
    for event in events:
        lines.append(f"  {_event(event)}")
    lines += [f"  {text}" for text in _outcome(line)]
    lines += _why(get("reason"), get("status"), style)
    return lines


def _began(line: Line) -> str:
    """When it began: its line is written at its end."""
    try:
        end = datetime.fromisoformat(line["timestamp"])
        return (end - timedelta(milliseconds=float(line["latency_ms"]))).isoformat(sep=" ", timespec="milliseconds")
    except (KeyError, TypeError, ValueError):
        return str(line.get("timestamp", ""))


def _event(line: Line) -> str:
    """One other line of the log, at its time of day."""
    at = str(line.get("timestamp", ""))[11:23]
    if line.get("message") == Event.UPSTREAM_ERROR:
        return (
            f"{at} try {line.get('tries', '?')}, {line.get('service', '?')} at {line.get('upstream', '?')}: "
            f"{line.get('reason', '?')} ({line.get('error', '')})"
        )
    rest = " ".join(f"{key}={value}" for key, value in line.items() if key not in _NOT_SHOWN)
    return f"{at} {line.get('message', '?')} {rest}".rstrip()


_NOT_SHOWN: Final = frozenset({"timestamp", "level", "message", "worker", "stack", "span_id", *IDS})


def _outcome(line: Line) -> list[str]:
    get = line.get
    upstream = get("upstream", NO_UPSTREAM)
    retries = int(get("retries") or 0)
    tries = f" at try {retries + 1}" if retries else ""
    took = f"after {get('latency_ms', '?')} ms, {get('size_bytes', '?')} bytes"
    if get("reason") == errors.CLIENT_ABORT.word:
        return [
            f"ended {took}: the client left" + ("" if upstream == NO_UPSTREAM else f" while {upstream} worked on it")
        ]
    if upstream == NO_UPSTREAM:
        return [f"answered {get('status', '?')} by Charon itself {took}"]
    by = "by Charon, the last endpoint asked being" if get("reason") else "by"
    return [f"answered {get('status', '?')} {by} {upstream}{tries} {took}"]


def _why(word: Any, status: Any, style: Style) -> list[str]:
    if not word:
        if isinstance(status, int) and status >= 500:
            return [style.yellow(f"  {errors.UPSTREAM_STATUS.text} {ADVICE[errors.UPSTREAM_STATUS.word]}")]
        return [style.green("  it went well")]
    reason = _REASONS.get(str(word))
    why = f"{word}: {reason.text}" if reason is not None else f"{word}: this version does not know that reason"
    return [style.red(f"  {why}"), *([f"  {ADVICE[reason.word]}"] if reason is not None else [])]
