"""``charon status``: the state of everything, as a table, as JSON, or as an exit code."""

from __future__ import annotations

import argparse
from typing import Any


def register(subparsers: Any) -> None:
    from charon.cli.main import add_socket

    parser = subparsers.add_parser(
        "status",
        help="show listeners, services, endpoints, workers and certificates",
        description="Show the state of the Charon that runs here.",
        allow_abbrev=False,
    )
    add_socket(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, with stable names")
    form.add_argument("--ready", action="store_true", help="only exit 0 when serving, 1 when not")
    form.add_argument("--watch", action="store_true", help="the table, anew each second, until q or Ctrl-C")
    form.add_argument("--greenlets", action="store_true", help="the greenlets of every process")


def run(args: argparse.Namespace) -> int:
    """0, or 1 with ``--ready`` when Charon is not serving."""
    import json
    import os
    import sys

    from charon.cli.admin_client import AdminClient
    from charon.cli.main import OK
    from charon.cli.status_table import table
    from charon.cli.terminal import style_for
    from charon.cli.watch import watch

    client = AdminClient.of(args)
    if args.ready:
        return _ready(client)
    if args.greenlets:
        for process, names in json.loads(client.get("/api/greenlets")[1]).items():
            print(f"{process} ({len(names)})", *names, sep="\n  ")
        return OK
    if args.json:
        print(client.get("/api/status")[1].decode().rstrip())
        return OK
    style = style_for(sys.stdout, os.environ)

    def look() -> list[str]:
        return table(json.loads(client.get("/api/status")[1]), style)

    if args.watch:
        watch(look, sys.stdin, sys.stdout)
    else:
        print(*look(), sep="\n")
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
