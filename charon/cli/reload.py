"""``charon reload``: put the configuration in force as it stands now, or say why not."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def register(subparsers: Any) -> None:
    from charon.cli.main import add_socket

    parser = subparsers.add_parser(
        "reload",
        help="put a changed configuration in force",
        description="Put the configuration in force as a whole. With a mistake in it nothing changes; exit 1.",
        allow_abbrev=False,
    )
    add_socket(parser)


def run(args: argparse.Namespace) -> int:
    """0 when the configuration is in force, 1 when it has mistakes."""
    from charon.cli.admin_client import AdminClient
    from charon.cli.main import OK, WRONG

    status, answer = AdminClient.of(args).post("/api/reload")
    if status == 200:
        print("reloaded")
        return OK
    print(*answer.get("problems", [answer.get("error", "")]), sep="\n", file=sys.stderr)
    print("the configuration that was in force stays in force", file=sys.stderr)
    return WRONG
