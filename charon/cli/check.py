"""``charon check``: every mistake of the configuration and the registry, or what they come to. Opens no listener."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from charon.base.clock import SystemClock
from charon.cli.terminal import Style, columns, style_for

if TYPE_CHECKING:
    from charon.cli.terminal import Cell
    from charon.config.load import Config, Reading
    from charon.config.registry import Registry


def register(subparsers: Any) -> None:
    from charon.cli.main import add_config

    parser = subparsers.add_parser(
        "check",
        help="check the configuration, the registry and the certificates",
        description="Print every mistake as FILE:LINE: key.path: what is wrong, what is allowed; exit 1 on any.",
        allow_abbrev=False,
    )
    add_config(parser)
    parser.add_argument(
        "--cert-min-days",
        type=_days,
        metavar="N",
        help="days that every certificate must still be valid (default: 7, and not those that Charon renews itself); "
        "one that lives for less than 2 N days: a sixth of its life",
    )


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= 10_000:
        raise argparse.ArgumentTypeError("a number of days is expected")
    return days


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
    if reading.config is None:
        return _report(problems, style)
    certificates, more = _certificates(reading.config, args.cert_min_days, style)
    problems += more
    if problems:
        return _report(problems, style)
    for line in summary(reading.config, registry, style, certificates):
        print(line)
    return 0


def _certificates(config: Config, min_days: float | None, style: Style) -> tuple[list[tuple[str, Cell]], list[str]]:
    """A row for each material that the configuration needs, and what is wrong with them."""
    from charon.config.compile import compile_settings

    sources = compile_settings(config).certificates
    if not sources:
        return [], []
    # Certificates take a large library, which a configuration without TLS does not need.
    from charon.cli.certs_show import validity
    from charon.cli.terminal import Cell
    from charon.identity.check import check

    now = SystemClock().wall()
    rows: list[tuple[str, Cell]] = []
    problems: list[str] = []
    for name, source in sources.items():
        checked = check(source, now, min_days)
        problems += checked.problems
        if checked.loaded is None:
            rows.append((name, Cell("is made when Charon starts")))
        elif checked.loaded.leaf is None:
            rows.append((name, Cell(f"{_count(len(checked.loaded.authorities), 'authority', 'authorities')}")))
        else:
            leaf = checked.loaded.leaf
            shown = validity(leaf, style, now)
            text = f"{leaf.identity or leaf.subject}  {shown.text}"
            rows.append((name, Cell(text + (", renewed by Charon" if checked.renewed_here else ""), shown.mark)))
    return rows, list(dict.fromkeys(problems))


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


def summary(config: Config, registry: Registry | None, style: Style, certificates: list[tuple[str, Cell]]) -> list[str]:
    """What the configuration comes to: listeners, services and their addresses, certificates, in aligned columns."""
    from charon.config.checks import named_services
    from charon.config.compile import listener_specs, static_targets
    from charon.config.compile_tls import Materials

    services = {**(registry.services if registry is not None else {}), **static_targets(config)}
    lines = [f"{config.file}: {style.green('fine')}", "", style.bold("listeners")]
    rows: list[tuple[str, ...]] = []
    for spec in listener_specs(config, Materials()):
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
    if certificates:
        lines += ["", style.bold("certificates"), *columns(certificates)]
    total = sum(len(targets) for targets in services.values())
    counts = (len(config.listeners), "listener"), (len(services), "service"), (total, "endpoint")
    return [*lines, "", ", ".join(_count(number, noun) for number, noun in counts)]


def _count(number: int, noun: str, nouns: str | None = None) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


SHOWN = 50
"""Services that the summary lists; a registry may hold very many."""


def _targets_text(targets: Any, named: bool) -> str:
    if targets is None:
        return "named here, not in the registry yet: its requests are answered with 503"
    if not targets:
        return "no address"
    texts = [f"{t.address}" + (f" (weight {t.weight})" if t.weight != 1 else "") for t in targets[:4]]
    return ", ".join(texts) + (f", ... {len(targets)} in all" if len(targets) > 4 else "")
