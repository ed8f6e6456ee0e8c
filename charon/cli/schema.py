"""``charon schema``: the JSON Schema of config.yaml, for editors."""

from __future__ import annotations

import argparse
from typing import Any


def register(subparsers: Any) -> None:
    subparsers.add_parser("schema", help="print the JSON Schema of the configuration", allow_abbrev=False)


def run(args: argparse.Namespace) -> int:
    import json

    from charon.config.reference import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return 0
