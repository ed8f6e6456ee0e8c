"""``charon explain ID``: what happened to one request, from the log."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


def register(subparsers: Any) -> None:
    from charon.cli.main import add_config

    parser = subparsers.add_parser(
        "explain",
        help="tell what happened to one request",
        description="Tell what happened to a request: which route it took, who was asked, what went wrong, and what to "
        "do about it. Requests have an id with request_id: true, and with tracing.",
        epilog="From the journal: journalctl -u charon -o cat | charon explain ID --log -",
        allow_abbrev=False,
    )
    add_config(parser)
    parser.add_argument("id", metavar="ID", help="X-Request-Id of the request or its answer, or the id of its trace")
    parser.add_argument(
        "--log",
        metavar="FILE",
        action="append",
        help="the log; - is standard input; may be given more than once (default: logging.file of the configuration, "
        "and what was rotated away beside it)",
    )


def run(args: argparse.Namespace) -> int:
    """0 when the request was found, 1 when it was not."""
    import os
    import sys

    from charon.cli.main import OK, WRONG
    from charon.cli.story import stories
    from charon.cli.terminal import style_for

    names = args.log if args.log is not None else logs(args.config)
    read = Reader(args.id)
    found = [line for name in names for line in read.lines(name)]
    if not found:
        print(f"charon: {read.why_nothing(names)}", file=sys.stderr)
        return WRONG
    for number, story in enumerate(stories(found, style_for(sys.stdout, os.environ))):
        print(*([""] if number else []), *story, sep="\n")
    return OK


def logs(config: str | None) -> list[str]:
    """The log file that the configuration names and its rotated parts, the oldest first. Raises ConfigError."""
    import os

    from charon.base.errors import ConfigError
    from charon.config.files import find_config
    from charon.config.load import load_config

    file = load_config(find_config(config), os.environ).log_file
    if file is None:
        raise ConfigError(["the log goes to standard output; name it: --log FILE, or --log - for standard input"])
    rotated = sorted(file.parent.glob(f"{file.name}?*"), key=lambda path: path.stat().st_mtime)
    return [str(path) for path in rotated if path.is_file()] + ([str(file)] if file.exists() else [])


class Reader:
    """Finds the lines about one request. Counts those that are no JSON, which cannot be told apart."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.seen = 0
        self.foreign = 0

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Those of the log ``name``; ``-`` is standard input. Raises ConfigError when it cannot be read."""
        import sys

        from charon.base.errors import ConfigError

        if name == "-":
            yield from self.select(sys.stdin.buffer)
            return
        try:
            with _open(Path(name)) as file:
                yield from self.select(file)
        except (OSError, EOFError) as error:
            raise ConfigError([f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None

    def select(self, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        """Those of ``lines`` that are about the request."""
        import orjson

        from charon.cli.story import IDS

        needle = self.wanted.encode("utf-8", "surrogateescape")
        for raw in lines:
            self.seen += 1
            start = raw.find(b"{")
            self.foreign += start < 0
            if start < 0 or needle not in raw:
                continue
            try:
                line = orjson.loads(raw[start:])  # what a log collector puts in front is no part of it
            except orjson.JSONDecodeError:
                self.foreign += 1
                continue
            if isinstance(line, dict) and any(line.get(field) == self.wanted for field in IDS):
                yield line

    def why_nothing(self, names: list[str]) -> str:
        """Why there is nothing to tell."""
        where = ", ".join("standard input" if name == "-" else name for name in names) or "any log file"
        text = f"no line about {self.wanted!r} in {where} ({self.seen} lines)"
        if self.foreign > self.seen // 2:
            return f"{text}; most are no JSON: only logging.format json can be explained"
        return f"{text}; lines have an id with request_id: true, and with tracing.enabled: true"


def _open(path: Path) -> BinaryIO:
    import gzip

    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value] # is one
