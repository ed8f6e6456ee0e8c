"""``charon status``: the state of everything, as a table, as JSON, or as an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charon.cli.terminal import Cell, Style


def register(subparsers: Any) -> None:
    from charon.cli.main import add_socket

    parser = subparsers.add_parser(
        "status",
        help="show listeners, services, endpoints and workers",
        description="Show the state of the Charon that runs here.",
        allow_abbrev=False,
    )
    add_socket(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, with stable names")
    form.add_argument("--ready", action="store_true", help="only exit 0 when serving, 1 when not")
    form.add_argument("--greenlets", action="store_true", help="the greenlets of every process")


def run(args: argparse.Namespace) -> int:
    """0, or 1 with ``--ready`` when Charon is not serving."""
    import json
    import os
    import sys

    from charon.cli.admin_client import AdminClient
    from charon.cli.main import OK
    from charon.cli.terminal import style_for

    client = AdminClient.of(args)
    if args.ready:
        return _ready(client)
    if args.greenlets:
        for process, names in json.loads(client.get("/api/greenlets")[1]).items():
            print(f"{process} ({len(names)})", *names, sep="\n  ")
        return OK
    body = client.get("/api/status")[1]
    if args.json:
        print(body.decode().rstrip())
        return OK
    print(*table(json.loads(body), style_for(sys.stdout, os.environ)), sep="\n")
    return OK


def _ready(client: Any) -> int:
    from charon.base.errors import StartError
    from charon.cli.main import OK, WRONG

    try:
        status, body = client.get("/readyz")
    except StartError as error:
        print(f"not ready: {error}")
        return WRONG
    print("ready" if status == 200 else f"not ready: {body.decode().strip()}")
    return OK if status == 200 else WRONG


def table(state: Mapping[str, Any], style: Style) -> list[str]:
    """``/api/status`` in lines for people."""
    from charon.cli.terminal import Cell, columns

    lines = [*_head(state, style), "", style.bold("listeners")]
    listeners = [(one["name"], one["protocol"], one["address"], "TLS" * one["tls"]) for one in state["listeners"]]
    lines += columns(listeners)
    lines += ["", style.bold("services")]
    rows = [_endpoint(name, one, style) for name, endpoints in state["services"].items() for one in endpoints]
    rows += [
        (Cell(name), Cell("no endpoint"), *3 * (Cell(""),))
        for name, endpoints in state["services"].items()
        if not endpoints
    ]
    lines += columns(rows) or ["  none"]
    if state["certificates"]:
        lines += ["", style.bold("certificates")]
        lines += columns([_certificate(one, style) for one in state["certificates"]])
    if state["interception"]:
        lines += ["", style.bold("interception"), *_interception(state["interception"], style)]
    lines += ["", style.bold("workers")]
    lines += columns([_worker(one, state["generation"], style) for one in state["workers"]])
    return lines


def _certificate(one: Mapping[str, Any], style: Style) -> tuple[Cell, ...]:
    from charon.base.units import in_words
    from charon.cli.terminal import Cell

    days = one["days_left"]
    left = Cell("expired", style.red) if days <= 0 else Cell(f"{in_words(days * 86_400)} left")
    trouble = one["problem"] or "; ".join(one["warnings"])
    return Cell(one["kind"]), Cell(one["identity"] or one["name"]), left, Cell(one["file"]), Cell(trouble, style.red)


def _interception(state: Mapping[str, Any], style: Style) -> list[str]:
    from charon.cli.terminal import Cell, columns

    rules = Cell("up", style.green) if state["up"] else Cell("down", style.red)
    rows = [(Cell("rules"), rules), (Cell("on stop"), Cell(state["on_stop"]))]
    if state["trouble"]:
        rows.append((Cell("trouble"), Cell(state["trouble"], style.red)))
    for direction, results in sorted(state["connections"].items()):
        counts = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
        rows.append((Cell(direction), Cell(counts)))
    return columns(rows)


def _head(state: Mapping[str, Any], style: Style) -> list[str]:
    from charon.base.units import format_duration

    ready = style.green("ready") if state["ready"] else style.red(f"not ready: {state['not_ready_because']}")
    up = format_duration(round(state["uptime_seconds"]))
    lines = [f"charon {state['version']}  pid {state['pid']}  up {up}  {ready}"]
    lines.append(f"{state['connections']} connections, {state['draining_connections']} of them draining")
    lines.append(f"configuration {state['config_file']} {state['config_digest']}, generation {state['generation']}")
    log = state["log"]
    if log["lines_dropped"] or log["write_errors"]:
        trouble = f"{log['write_errors']} failures to write, {log['lines_dropped']} lines dropped"
        lines.append(f"log {log['file'] or 'on standard output'}: {style.red(trouble)}")
    lines += _change("reload", state["last_reload"], state["last_reload"].get("problems", []), style)
    problem = state["last_upgrade"].get("problem")
    lines += _change("upgrade", state["last_upgrade"], [problem] if problem else [], style)
    predecessor = state["predecessor"]
    if predecessor is not None:
        lines.append(
            f"the program before it, pid {predecessor['pid']}, finishes {predecessor['connections']} connections"
        )
    return lines


def _change(what: str, change: Mapping[str, Any], problems: list[str], style: Style) -> list[str]:
    from datetime import datetime

    if not change:
        return []
    at = datetime.fromtimestamp(change["at"]).astimezone().isoformat(sep=" ", timespec="seconds")
    if change["ok"]:
        return [f"last {what} {at}: {style.green('in force')}"]
    return [f"last {what} {at}: {style.red('refused')}", *(f"  {problem}" for problem in problems)]


def _endpoint(service: str, one: Mapping[str, Any], style: Style) -> tuple[Cell, ...]:
    from charon.cli.terminal import Cell

    health = {None: Cell("unknown"), True: Cell("up", style.green), False: Cell("down", style.red)}[one["healthy"]]
    closed = one["breaker"] == "closed"
    breaker = Cell(f"breaker {one['breaker']}", style.plain if closed else style.red)
    aside = Cell("set aside", style.red) if one["ejected"] else Cell("")
    return Cell(service), Cell(one["endpoint"]), health, breaker, aside


def _worker(one: Mapping[str, Any], generation: int, style: Style) -> tuple[Cell, ...]:
    from charon.cli.terminal import Cell

    if one["ready"]:
        state = Cell("ready", style.green)
    else:
        state = Cell("crash loop" if one["crash_loop"] else "starting", style.red)
    behind = "" if one["generation"] == generation else f"generation {one['generation']}"
    trouble = [f"overloaded ({cause})" for cause in one.get("overloaded", ())]
    if one.get("paused"):
        trouble.append(f"accepts nothing for want of {one['paused']}")
    deaths = f"{one['deaths']} deaths" if one["deaths"] else ""
    connections = f"{one.get('connections', 0)} connections"
    pid = f"pid {one['pid']}" if one["pid"] is not None else ""
    return (
        Cell(str(one["slot"])),
        Cell(pid),
        state,
        Cell(connections),
        Cell(behind),
        Cell(deaths, style.red),
        Cell("; ".join(trouble), style.red),
    )
