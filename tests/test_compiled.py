"""What the source must keep to for the compiled data path to do the same as the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CHARON = Path(__file__).parents[1] / "charon"
COMPILED = ("wire", "policy", "shared", "net", "proxy", "telemetry")
PURE = {"len", "min", "max", "int", "line_end"}


def sources() -> list[Path]:
    if not CHARON.exists():
        pytest.skip("runs beside the source only")
    return [path for folder in COMPILED for path in sorted((CHARON / folder).glob("*.py"))]


def test_no_bound_of_a_slice_has_an_effect() -> None:
    """mypyc 2.4 evaluates the bounds of a slice twice where it has no operation of its own for what is cut, such as a
    memoryview: ``rest = rest[send(rest) :]`` sends everything twice."""
    found = []
    for path in sources():
        for cut in ast.walk(ast.parse(path.read_text())):
            if isinstance(cut, ast.Slice):
                calls = [part for part in ast.walk(cut) if isinstance(part, ast.Call)]
                found += [f"{path}:{cut.lineno}" for call in calls if not is_pure(call.func)]
    assert not found


def is_pure(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr in {"index", "find", "lstrip", "from_bytes", "start"}
    return isinstance(function, ast.Name) and function.id in PURE
