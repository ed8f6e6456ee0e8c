"""``charon route METHOD URL``: which way a request would take through the configuration, and why."""

from __future__ import annotations

import argparse
from typing import Any


def register(subparsers: Any) -> None:
    from charon.cli.main import add_socket

    parser = subparsers.add_parser(
        "route",
        help="tell which route a request would take",
        description="Tell which listener, route, service and endpoints a request would take, and why. It is judged by "
        "the code that carries requests; nothing is sent. Where a Charon runs with this configuration, the endpoints "
        "are shown as they are now.",
        allow_abbrev=False,
    )
    add_socket(parser)
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("url", metavar="URL", help="http://host[:port]/path, or only /path")
    parser.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], help="may be given repeatedly"
    )
    parser.add_argument("--listener", metavar="NAME", help="the listener (default: the one at the URL's port)")


def run(args: argparse.Namespace) -> int:
    """0 when the request would be carried on or redirected, 1 when Charon would refuse it."""
    import os
    import sys

    from charon.base.errors import BadMessage, ConfigError
    from charon.cli.main import OK, WRONG
    from charon.cli.terminal import style_for
    from charon.cli.way import Asked, choose_listener, parse, way
    from charon.config.compile import listener_specs
    from charon.config.compile_tls import Materials
    from charon.config.files import find_config
    from charon.config.load import load_config

    config = load_config(find_config(args.config), os.environ)
    try:
        asked = Asked.of(args.method, args.url, args.header)
        spec = choose_listener(listener_specs(config, Materials()), asked, args.listener)
        head = parse(asked, spec)
    except ValueError as error:
        print(f"charon: {error}", file=sys.stderr)
        return WRONG
    except BadMessage as bad:
        print(f"refused: {bad.reason.status} {bad.reason.word}: {bad.detail}")
        return WRONG
    live = _live(args)
    try:
        known = {name: [str(t.address) for t in targets] for name, targets in _targets(config).items()}
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        known = {}
    lines, carried = way(spec, head, known, live, style_for(sys.stdout, os.environ))
    print(*lines, sep="\n")
    return OK if carried else WRONG


def _targets(config: Any) -> dict[str, Any]:
    from charon.config.compile import static_targets
    from charon.config.registry import load_registry

    found: dict[str, Any] = {}
    if config.registry_file is not None and config.registry_file.exists():
        found.update(load_registry(config.registry_file).services)
    return found | static_targets(config)


def _live(args: argparse.Namespace) -> dict[str, Any] | None:
    """The services of the Charon that runs here; None where none does."""
    import json

    from charon.base.errors import ConfigError, StartError
    from charon.cli.admin_client import AdminClient

    try:
        status, body = AdminClient.of(args).get("/api/services")
    except (ConfigError, StartError):
        return None
    found: dict[str, Any] | None = json.loads(body) if status == 200 else None
    return found
