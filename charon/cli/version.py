"""``charon version``."""

from __future__ import annotations

import argparse
from typing import Any


def register(subparsers: Any) -> None:
    subparsers.add_parser("version", help="print the versions of Charon and of what it runs on", allow_abbrev=False)


def run(args: argparse.Namespace) -> int:
    import platform

    import gevent

    from charon import __version__
    from charon.wire import messages

    loop = gevent.get_hub().loop
    kind = f"{type(loop).__module__.removeprefix('gevent.')}, {loop.backend}"
    compiled = not str(messages.__file__).endswith(".py")
    print(f"charon {__version__}")
    print(f"data path {'compiled' if compiled else 'not compiled'}")
    print(f"Python {platform.python_version()} ({platform.python_implementation()})")
    print(f"gevent {gevent.__version__}")
    print(f"event loop {kind}")
    return 0
