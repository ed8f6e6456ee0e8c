"""``charon drain``: take this Charon out of service, readiness first, and end it."""

from __future__ import annotations

import argparse
from typing import Any


def register(subparsers: Any) -> None:
    from charon.cli.main import add_socket

    parser = subparsers.add_parser(
        "drain",
        help="say not ready, then finish what is under way and end",
        description="Readiness fails at once. After --delay Charon stops accepting, finishes and ends, as on SIGTERM.",
        allow_abbrev=False,
    )
    add_socket(parser)
    parser.add_argument(
        "--delay",
        metavar="TIME",
        default="5s",
        help="how long to go on serving, for those who look at readiness to notice (default: 5s)",
    )


def run(args: argparse.Namespace) -> int:
    """0 when it has begun, 1 when the delay is not one."""
    import sys

    from charon.base.units import parse_duration
    from charon.cli.admin_client import AdminClient
    from charon.cli.main import OK, WRONG

    try:
        delay = parse_duration(args.delay)
    except ValueError as error:
        print(f"charon: --delay: {error}", file=sys.stderr)
        return WRONG
    status, answer = AdminClient.of(args).post("/api/drain", {"delay_seconds": delay})
    if status != 202:
        print(f"charon: {answer['error']}", file=sys.stderr)
        return WRONG
    print(f"not ready from now on; stops accepting in {delay:g} s")
    return OK
