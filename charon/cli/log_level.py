"""``charon log-level LEVEL``: what is logged from now on, until the next reload."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "log-level"


def register(subparsers: Any) -> None:
    from charon.cli.main import add_socket

    parser = subparsers.add_parser(
        NAME,
        help="log more or less, without a restart",
        description="Log what is of LEVEL and above, in all processes, until the next reload.",
        allow_abbrev=False,
    )
    add_socket(parser)
    parser.add_argument("level", choices=("debug", "info", "warning", "error"), metavar="LEVEL")


def run(args: argparse.Namespace) -> int:
    """0 when it is done."""
    from charon.cli.admin_client import AdminClient
    from charon.cli.main import OK, WRONG

    status, answer = AdminClient.of(args).post("/api/log-level", {"level": args.level})
    print(f"level is {args.level}" if status == 200 else answer["error"])
    return OK if status == 200 else WRONG
