"""``/api/status`` in lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from charon.base.units import format_duration, in_words
from charon.cli.terminal import Cell, Style, columns

State = Mapping[str, Any]

FEW_DAYS: Final = 0.25
"""Days that a certificate has left when that is worth a colour: a leaf lives for one."""


def table(state: State, style: Style) -> list[str]:
    """The whole state."""
    lines = [*_head(state, style), "", *_traffic(state, style)]
    lines += ["", style.bold("listeners"), *_listeners(state, style)]
    lines += ["", style.bold("services"), *_services(state, style)]
    lines += ["", style.bold("workers")]
    lines += columns([_worker(one, state["generation"], style) for one in state["workers"]])
    if state["certificates"]:
        lines += ["", style.bold("certificates")]
        lines += columns([_certificate(one, style) for one in state["certificates"]])
    if state["interception"]:
        lines += ["", style.bold("interception"), *_interception(state["interception"], style)]
    return lines


def _interception(state: State, style: Style) -> list[str]:
    rules = Cell("up", style.green) if state["up"] else Cell("down", style.red)
    rows = [[Cell("rules"), rules], [Cell("on stop"), Cell(state["on_stop"])]]
    if state["trouble"]:
        rows.append([Cell("trouble"), Cell(state["trouble"], style.red)])
    for direction, results in sorted(state["connections"].items()):
        counts = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
        rows.append([Cell(direction), Cell(counts)])
    return columns(rows)


def _head(state: State, style: Style) -> list[str]:
    ready = style.green("ready") if state["ready"] else style.red(f"not ready: {state['not_ready_because']}")
    up = format_duration(round(state["uptime_seconds"]))
    lines = [f"charon {state['version']}  pid {state['pid']}  up {up}  {ready}"]
    draining = state["draining_connections"]
    lines.append(f"{state['connections']} connections" + (f", {draining} of them to finish" if draining else ""))
    lines.append(f"configuration {state['config_file']} {state['config_digest']}, generation {state['generation']}")
    log = state["log"]
    if log["lines_dropped"] or log["write_errors"]:
        trouble = f"{log['write_errors']} failures to write, {log['lines_dropped']} lines dropped"
        lines.append(f"log {log['file'] or 'on standard output'}: {style.red(trouble)}")
    registry = state["registry"]
    if registry is not None and not registry["ok"]:
        lines.append(f"registry {registry['file']}: {style.red('the last good one is in force')}")
        lines += [f"  {problem}" for problem in registry["problems"]]
    lines += _change("reload", state["last_reload"], state["last_reload"].get("problems", []), style)
    problem = state["last_upgrade"].get("problem")
    lines += _change("upgrade", state["last_upgrade"], [problem] if problem else [], style)
    predecessor = state["predecessor"]
    if predecessor is not None:
        lines.append(
            f"the program before it, pid {predecessor['pid']}, finishes {predecessor['connections']} connections"
        )
    return lines


def _change(what: str, change: State, problems: Sequence[str], style: Style) -> list[str]:
    if not change:
        return []
    at = datetime.fromtimestamp(change["at"]).astimezone().isoformat(sep=" ", timespec="seconds")
    if change["ok"]:
        return [f"last {what} {at}: {style.green('in force')}"]
    return [f"last {what} {at}: {style.red('refused')}", *(f"  {problem}" for problem in problems)]


def _traffic(state: State, style: Style) -> list[str]:
    """All traffic in two lines."""
    traffic = state["traffic"]
    latency = traffic["latency_ms"]
    parts = [f"{_rate(traffic['requests_per_second'])} requests/s", _errors(traffic, style) + " errors"]
    if latency is not None:
        parts.append("latency " + ", ".join(f"{key} {_ms(value)}" for key, value in latency.items()))
    if traffic["tcp_connections_per_second"]:
        parts.append(f"{_rate(traffic['tcp_connections_per_second'])} TCP connections/s")
    held = [f"{_rate(traffic['retries_per_second'])} retries/s"]
    held += [
        style.yellow(f"over the limit {one['route']}: {_rate(one['per_second'])}/s") for one in traffic["limits_hit"]
    ]
    held += [style.yellow(f"retry budget of {one['service']} used up") for one in traffic["retry_budgets_exhausted"]]
    return ["  ".join(parts), "  ".join(held)]


def _errors(one: State, style: Style) -> str:
    share = one["error_rate"]
    mark = style.red if share >= 0.5 else style.yellow if share >= 0.01 else style.plain
    return mark(_percent(share))


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def _percent(share: float) -> str:
    value = share * 100
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{value:.1f}%"


def _ms(value: float) -> str:
    return f"{value / 1000:.1f}s" if value >= 1000 else f"{value:.0f}ms" if value >= 10 else f"{value:.1f}ms"


def _number(text: str, style: Style, share: float = 0.0) -> Cell:
    return Cell(text, style.red if share >= 0.5 else style.yellow if share >= 0.01 else style.plain, right=True)


def _titles(style: Style, *titles: str) -> list[Cell]:
    """A row of titles; those that begin with ``>`` stand at the right."""
    return [Cell(title.removeprefix(">"), style.faint, right=title.startswith(">")) for title in titles]


def _listeners(state: State, style: Style) -> list[str]:
    rows = [_titles(style, "name", "protocol", "address", ">connections", ">requests/s", ">errors")]
    for one in state["listeners"]:
        protocol = f"{one['protocol']}, TLS" if one["tls"] else one["protocol"]
        numbers = (
            _number(str(one["connections"]), style),
            _number(_rate(one["requests_per_second"]), style),
            _number(_percent(one["error_rate"]), style, one["error_rate"]),
        )
        rows.append([Cell(one["name"]), Cell(protocol), Cell(one["address"]), *numbers])
    return columns(rows)


def _services(state: State, style: Style) -> list[str]:
    if not state["services"]:
        return ["  none"]
    titles = ("service", "endpoint", "health", "breaker", "", ">in flight", ">requests/s", ">errors", ">p50", ">p99")
    rows = [_titles(style, *titles)]
    for name, endpoints in state["services"].items():
        rows += [_endpoint(name, one, style) for one in endpoints]
        if not endpoints:
            rows.append([Cell(name), Cell("no endpoint", style.yellow), *(Cell("") for _ in titles[2:])])
    return columns(rows)


def _endpoint(service: str, one: State, style: Style) -> list[Cell]:
    health = {None: Cell("unknown"), True: Cell("up", style.green), False: Cell("down", style.red)}[one["healthy"]]
    closed = one["breaker"] == "closed"
    breaker = Cell(one["breaker"].replace("_", "-"), style.plain if closed else style.red)
    aside = Cell("set aside", style.red) if one["ejected"] else Cell("")
    latency = one["latency_ms"]
    return [
        Cell(service),
        Cell(one["endpoint"]),
        health,
        breaker,
        aside,
        _number(str(one["in_flight"]), style),
        _number(_rate(one["requests_per_second"]), style),
        _number(_percent(one["error_rate"]), style, one["error_rate"]),
        _number(_ms(latency["p50"]) if latency else "-", style),
        _number(_ms(latency["p99"]) if latency else "-", style),
    ]


def _worker(one: State, generation: int, style: Style) -> list[Cell]:
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
    return [
        Cell(str(one["slot"])),
        Cell(pid),
        state,
        Cell(connections),
        Cell(behind),
        Cell(deaths, style.red),
        Cell("; ".join(trouble), style.red),
    ]


def _certificate(one: State, style: Style) -> list[Cell]:
    days = one["days_left"]
    trouble = one["problem"] or "; ".join(one["warnings"])
    mark = style.yellow if days < FEW_DAYS or trouble else style.green
    left = Cell("expired", style.red) if days <= 0 else Cell(f"{in_words(days * 86_400)} left", mark)
    who = one["identity"] or one["name"]
    return [Cell(one["kind"]), Cell(who), left, Cell(one["file"] or ""), Cell(trouble, style.red)]
