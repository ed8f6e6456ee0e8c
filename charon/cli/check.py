"""``charon check``: every mistake of the configuration and the registry, or what they come to. Opens no listener."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from charon.cli.terminal import Style, columns, style_for

if TYPE_CHECKING:
    from charon.config.load import Config, Reading
    from charon.config.registry import Registry


def register(subparsers: Any) -> None:
    from charon.cli.main import add_config

    parser = subparsers.add_parser(
        "check",
        help="check the configuration and the registry",
        description="Print every mistake as FILE:LINE: key.path: what is wrong, what is allowed; exit 1 on any.",
        allow_abbrev=False,
    )
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """0 when all is fine, 1 when anything is wrong."""
    import os
    import sys

    from charon.base.errors import ConfigError
    from charon.config.files import find_config
    from charon.config.load import read_config

    style = style_for(sys.stdout, os.environ)
    try:
        reading = read_config(find_config(args.config), os.environ)
    except ConfigError as error:
        return _report(error.problems, style)
    problems = list(reading.problems)
    registry, more = _registry(reading)
    problems += more
    if problems or reading.config is None:
        return _report(problems, style)
    for line in summary(reading.config, registry, style):
        print(line)
    return 0


def _registry(reading: Reading) -> tuple[Registry | None, list[str]]:
    from charon.base.errors import ConfigError
    from charon.config.registry import load_registry

    if reading.registry_file is None:
        return None, []
    if not reading.registry_file.exists():
        return None, [f"{reading.registry_key}: there is no such file: {reading.registry_file}"]
    try:
        return load_registry(reading.registry_file), []
    except ConfigError as error:
        return None, error.problems


def _report(problems: list[str], style: Style) -> int:
    for problem in problems:
        where, colon, what = problem.partition(": ")
        print(style.bold(where) + colon + what)
    print(style.red(_count(len(problems), "mistake")))
    return 1


def summary(config: Config, registry: Registry | None, style: Style) -> list[str]:
    """What the configuration comes to: listeners, services and their addresses, in aligned columns."""
    from charon.config.checks import named_services
    from charon.config.compile import listener_specs, static_targets

    services = {**(registry.services if registry is not None else {}), **static_targets(config)}
    lines = [f"{config.file}: {style.green('fine')}", "", style.bold("listeners")]
    rows: list[tuple[str, ...]] = []
    for spec in listener_specs(config):
        rules = _count(len(spec.routes), "route") if spec.protocol != "tcp" else ""
        target = f"default {spec.default_service}" if spec.default_service else "no default"
        rows.append((spec.name, spec.protocol, spec.address, rules, target))
    lines += columns(rows)
    lines += ["", style.bold("services")]
    named = list(dict.fromkeys(name for name, _ in named_services(config.root, config.listeners)))
    shown = sorted({*services, *named})
    rows = [(name, _targets_text(services.get(name), name in named)) for name in shown[:SHOWN]]
    lines += columns(rows) or ["  none"]
    if len(shown) > SHOWN:
        lines.append(f"  ... and {len(shown) - SHOWN} more")
    total = sum(len(targets) for targets in services.values())
    counts = (len(config.listeners), "listener"), (len(services), "service"), (total, "endpoint")
    return [*lines, "", ", ".join(_count(number, noun) for number, noun in counts)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


SHOWN = 50
"""Services that the summary lists; a registry may hold very many."""


def _targets_text(targets: Any, named: bool) -> str:
    if targets is None:
        return "named here, not in the registry yet: its requests are answered with 503"
    if not targets:
        return "no address"
    texts = [f"{t.address}" + (f" (weight {t.weight})" if t.weight != 1 else "") for t in targets[:4]]
    return ", ".join(texts) + (f", ... {len(targets)} in all" if len(targets) > 4 else "")
