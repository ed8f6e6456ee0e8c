"""What the source must keep to for the compiled data path to do the same as the source."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

CHARON = Path(__file__).parents[1] / "charon"
COMPILED = ("wire", "policy", "shared", "net", "proxy", "telemetry")
INTERPRETED = {"tls.py", "tls_failures.py", "patch.py", "events.py", "exposition.py", "families.py", "problems.py"}
PURE = {"len", "min", "max", "int"}


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


def test_what_a_finally_reads_is_not_narrowed_before() -> None:
    """mypyc 2.4 takes the type that a variable has at the end of ``try`` for its type in ``finally``, which is run
    after failures too: ``reason = None`` as the last step made any other reason a TypeError there. These are known to
    have the same type on all ways."""
    known = {
        "attempt.py reusable", "server.py counted", "tcp.py reason", "tcp.py trial", "tcp.py self.upstream",
    }  # fmt: skip
    found = set()
    for path in sources():
        for block in ast.walk(ast.parse(path.read_text())):
            if isinstance(block, ast.Try) and block.finalbody:
                before: list[ast.stmt | ast.ExceptHandler] = [*block.body, *block.handlers, *block.orelse]
                both = variables(before, ast.Store) & variables(block.finalbody, ast.Load)
                found |= {f"{path.name} {name}" for name in both}
    assert found <= known


def variables(where: Sequence[ast.AST], how: type[ast.expr_context]) -> set[str]:
    """Names and attributes that are written or read there."""
    parts = [part for block in where for part in ast.walk(block) if isinstance(part, (ast.Name, ast.Attribute))]
    return {ast.unparse(part) for part in parts if isinstance(part.ctx, how)}


def test_compiled_classes_inherit_from_nothing_that_is_held_weakly() -> None:
    """mypyc 2.4 does not clear weak references to an object whose class has an interpreted base: whoever holds one, as
    logging does of its handlers, is left with a reference into freed memory. Of these bases nobody does."""
    bases = {"Pool", "StreamServer", "WSGIHandler", "WSGIServer"}
    plain = {"Enum", "IntEnum", "Exception", "Generic", "NamedTuple", "Protocol"}
    ours = set()
    inherited = set()
    for path in sources():
        if path.name in INTERPRETED:
            continue
        for made in ast.walk(ast.parse(path.read_text())):
            if isinstance(made, ast.ClassDef):
                ours.add(made.name)
                inherited |= {ast.unparse(base).partition("[")[0] for base in made.bases}
    assert inherited - ours <= bases | plain
