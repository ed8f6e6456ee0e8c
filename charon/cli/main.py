"""The command line.

Only argparse is imported before a command runs, and a command imports what it needs when it runs: ``charon run``
must be able to monkey-patch before anything else has touched sockets, threads or TLS.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from charon.base.errors import CertificateError, ConfigError, StartError

OK: Final = 0
WRONG: Final = 1
"""The configuration, the registry or other input is wrong."""
USAGE: Final = 2
CANNOT_START: Final = 3
"""A port is taken, a permission is missing."""
INTERRUPTED: Final = 130
"""Ended from the keyboard, as shells write it."""

COMMANDS: Final = (
    *("check", "status", "explain", "route", "reload", "drain", "log_level", "certs", "intercept", "schema", "version"),
)
"""Modules of this package with ``register(subparsers)`` and ``run(args)``, besides ``run`` itself."""

_Subparsers = argparse._SubParsersAction


def add_config(parser: argparse.ArgumentParser, *, top: bool = False) -> None:
    """The option that names the configuration. Below the top it leaves one that was given before the command."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=None if top else argparse.SUPPRESS,
        help="the configuration (default: /etc/charon/config.yaml, then ./config.yaml)",
    )


def add_socket(parser: argparse.ArgumentParser) -> None:
    """The options that say which running Charon is meant."""
    add_config(parser)
    parser.add_argument("--socket", metavar="PATH", help="its admin socket (default: the one its configuration names)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="charon",
        description="A service-mesh sidecar proxy. Without a command: run.",
        epilog="Exit codes: 0 fine, 1 configuration or input wrong, 2 usage, 3 could not start.",
        allow_abbrev=False,
    )
    add_config(parser, top=True)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    run = subparsers.add_parser("run", help="run in the foreground", allow_abbrev=False)
    add_config(run)
    for name in COMMANDS:
        importlib.import_module(f"charon.cli.{name}").register(subparsers)
    return parser


def _module(command: str) -> Any:
    return importlib.import_module(f"charon.cli.{command.replace('-', '_')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits with 2 when the usage is wrong."""
    args = build_parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = _module(args.command or "run").run
        code = run(args)
        if sys.stdout is not None:  # None when the program was started with it closed.
            sys.stdout.flush()
        return code
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return WRONG
    except CertificateError as error:
        print(f"charon: {error}", file=sys.stderr)
        return WRONG
    except StartError as error:
        print(f"charon: {error}", file=sys.stderr)
        return CANNOT_START
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has seen enough; without this the interpreter complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG
