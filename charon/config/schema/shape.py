"""Questions about the schema itself: which block stands at a path, which keys there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args, get_origin

from charon.config.problems import nearest
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root
from charon.config.schema.section import Section

EVERYWHERE: Final = "*"
"""The step of a path that stands for any item of a list, or any name of a map."""


def below(annotation: Any) -> tuple[type[Section], bool] | None:
    """The block that a field holds, and whether it holds many of them (a list, or a map by name)."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    if get_origin(annotation) in (tuple, dict):
        for inner in get_args(annotation):
            if isinstance(inner, type) and issubclass(inner, Section):
                return inner, True
    return None


def block_at(path: Sequence[str | int]) -> type[Section] | None:
    """The block of keys at ``path``; None where there is none."""
    block: type[Section] = Root
    steps = list(path)
    while steps:
        field = block.model_fields.get(str(steps.pop(0)))
        found = below(field.annotation) if field else None
        if found is None or (found[1] and not steps):
            return None
        block = found[0]
        if found[1]:
            steps.pop(0)
    return block


def blocks(block: type[Section] = Root, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    """Every block with its path, depth first, the root first."""
    yield path, block
    for name, field in block.model_fields.items():
        found = below(field.annotation)
        if found is not None:
            yield from blocks(found[0], (*path, name, EVERYWHERE) if found[1] else (*path, name))


def unknown_key(path: Sequence[str | int]) -> str:
    """What to say about the key at ``path``, which its block does not have."""
    block = block_at(path[:-1]) or Root
    key = str(path[-1])
    if key in block.elsewhere:
        return f"unknown key here; {block.elsewhere[key]}"
    if key in Root.model_fields and block is not Root:
        return "unknown key here; it belongs at the top level"
    if key in Listener.model_fields and block is Root:
        return "unknown key here; it belongs in an entry of listeners"
    meant = nearest(key, block.model_fields)
    if meant is not None:
        return f"unknown key; did you mean {meant}?"
    for where, other in blocks():
        if key in other.model_fields and EVERYWHERE not in where:
            return f"unknown key here; did you mean {'.'.join((*where, key))}?"
    return f"unknown key; known here are {', '.join(sorted(block.model_fields))}"
