"""``charon run``: the supervisor, in the foreground."""

import charon.net.patch  # noqa: F401 - before all others: they must import the patched standard library

# isort: split
import argparse

from charon.config.files import find_config
from charon.config.reader import Reader


def run(args: argparse.Namespace) -> int:
    """Run until stopped. Raises ConfigError or StartError."""
    reader = Reader(find_config(args.config))
    # Takes about as long as reading: a third of the time until Charon serves, which is so spent once and not twice.
    from charon.cli.serve import serve

    return serve(reader)
