"""What every block of config.yaml has in common."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator


def setting(default: Any, description: str, *, live: bool = True, example: Any = None) -> Any:
    """One key: its default as a user would write it (``...``: it must be given), and its manual.

    ``live`` says that a reload brings a change into force; otherwise it waits for a restart.
    ``example`` is shown in the commented configuration where the default would explain nothing.
    """
    extra: dict[str, Any] = {"x-charon-applies": "live" if live else "restart"}
    examples = None if example is None else [example]
    return Field(default, description=description, examples=examples, json_schema_extra=extra)


def block(kind: type[Any], description: str, *, live: bool = True) -> Any:
    """One key that holds a block of keys, all of which have defaults."""
    extra: dict[str, Any] = {"x-charon-applies": "live" if live else "restart"}
    return Field(default_factory=kind, description=description, json_schema_extra=extra)


class Section(BaseModel):
    """A block of keys. A key that is written with nothing behind it counts as not written, unless it can be none."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True)
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that a user may look for here and that stand somewhere else, with what to say about each."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        return {
            key: value
            for key, value in data.items()
            if value is not None or key not in fields or can_be_none(fields[key].annotation)
        }

    def overridden_by(self, other: Self) -> Self:
        """This block with the keys that ``other`` gives in their place, key by key through all blocks below."""
        changes: dict[str, Any] = {}
        for key in other.model_fields_set:
            mine, theirs = getattr(self, key), getattr(other, key)
            both = isinstance(mine, Section) and isinstance(theirs, Section)
            changes[key] = mine.overridden_by(theirs) if both else theirs
        return self.model_copy(update=changes)


def can_be_none(annotation: Any) -> bool:
    """Does a field's annotation allow None?"""
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)
