"""``charon intercept``: the kernel's rules of transparent interception, put up, taken away, shown and checked."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charon.config.settings import Settings

_COMMANDS = {
    "up": "put the rules up; they lead to the Charon that runs here, which keeps them in force",
    "down": "take the rules away, whether Charon runs or not",
    "show": "print the rules that are wanted",
    "check": "compare them with what is in the kernel; exit 1 when it differs",
}


def register(subparsers: Any) -> None:
    from charon.cli.main import add_socket

    parser = subparsers.add_parser(
        "intercept",
        help="the rules of transparent interception",
        description="One nftables table of Charon's own, as the block intercept of the configuration wants it.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_socket(command)
        if name == "down":
            command.add_argument(
                "--stopping", action="store_true", help="only as on_stop says: rules that are to fail closed stay"
            )


def run(args: argparse.Namespace) -> int:
    """0, or 1 when a check finds a difference. Raises ConfigError or StartError."""
    actions = {"up": _up, "down": _down, "show": _show, "check": _check}
    return actions[args.action](args)


def _up(args: argparse.Namespace) -> int:
    from charon.base.errors import StartError
    from charon.intercept import kernel, rules

    running = _ask(args, "/api/intercept/up")
    if running is None:
        settings = _settings(args)
        spec = settings.intercept
        if spec is None:
            raise StartError("intercept is not enabled in the configuration")
        if spec.fail_open:
            raise StartError("no Charon is running to which the rules could lead; it puts them up when it starts")
        kernel.load(rules.table(spec, _place(settings)))
    print("up")
    return 0


def _down(args: argparse.Namespace) -> int:
    """The way out of every trouble: nothing that is wrong elsewhere keeps the rules from going."""
    from charon.base.errors import ConfigError, StartError
    from charon.config.schema.intercept import DEFAULT_ROUTING_TABLE
    from charon.intercept import kernel, routing

    table, number = "charon", DEFAULT_ROUTING_TABLE
    try:
        spec = _settings(args).intercept
        if spec is not None:
            table, number = spec.table, spec.routing_table or number
        if args.stopping and spec is not None and not spec.fail_open:
            print("the rules stay, as on_stop is closed")
            return 0
    except (ConfigError, StartError) as error:
        _warn(error)
    try:
        running = _ask(args, "/api/intercept/down")
    except (ConfigError, StartError) as error:
        running = None
        _warn(error)
    if running is not None and running["enabled"]:
        print("down")
        return 0
    removed = [kernel.remove(table), routing.remove(number)]
    print("down" if any(removed) else "there were no rules")
    return 0


def _warn(error: Exception) -> None:
    import sys

    print(f"charon: {error}", file=sys.stderr)


def _show(args: argparse.Namespace) -> int:
    from charon.intercept import routing, rules

    running = _ask(args, "/api/intercept")
    if running is not None:
        print(running.get("rules") or "# intercept is not enabled")
        return 0
    settings = _settings(args)
    spec = settings.intercept
    if spec is None:
        print("# intercept is not enabled")
        return 0
    answers = "" if spec.routing_table is None else routing.text(spec.routing_table)
    print(rules.table(spec, _place(settings)) + answers)
    return 0


def _check(args: argparse.Namespace) -> int:
    from charon.cli.main import OK, WRONG
    from charon.config.schema.intercept import DEFAULT_ROUTING_TABLE
    from charon.intercept import kernel, routing, rules

    running = _ask(args, "/api/intercept")
    if running is not None and running["enabled"]:
        problem = running["difference"]
    else:
        settings = _settings(args)
        spec = settings.intercept
        listed = kernel.listing("charon" if spec is None else spec.table)
        if spec is not None and not spec.fail_open and running is None:
            problem = rules.difference(rules.table(spec, _place(settings)), listed)
        else:
            problem = None if listed is None else "there is a table that nobody keeps; charon intercept down removes it"
            number = DEFAULT_ROUTING_TABLE if spec is None else spec.routing_table or DEFAULT_ROUTING_TABLE
            if problem is None and running is None and routing.left_over(number):
                problem = "there is a rule of routing that nobody keeps; charon intercept down removes it"
    print(problem or "the kernel has what is wanted")
    return OK if problem is None else WRONG


def _ask(args: argparse.Namespace, path: str) -> dict[str, Any] | None:
    """What the running Charon says; None when there is none. Raises ConfigError, or StartError with its words."""
    import json

    from charon.base.errors import StartError
    from charon.cli.admin_client import AdminClient

    client = AdminClient.of(args)
    if not client.path.exists():
        return None
    try:
        if path.count("/") > 2:
            status, answer = client.post(path)
        else:
            status, body = client.get(path)
            answer = json.loads(body)
    except StartError as error:
        if isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return None
        raise
    if status != 200:
        raise StartError(answer["error"])
    return answer


def _settings(args: argparse.Namespace) -> Settings:
    import os

    from charon.config.compile import compile_settings
    from charon.config.files import find_config
    from charon.config.load import load_config

    return compile_settings(load_config(find_config(args.config), os.environ))


def _place(settings: Settings) -> Any:
    """As far as it can be known without a running Charon, whose user is taken to be the present one."""
    import os

    from charon.intercept.rules import Place

    return Place({listener.name: listener.address for listener in settings.listeners}, os.geteuid())
