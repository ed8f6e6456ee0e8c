"""A mistake that was found by looking at several keys together."""

from __future__ import annotations

from dataclasses import dataclass

from charon.config.document import KeyPath


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake at ``path``. It is not reported when something at or around ``because`` could not be read.

    ``other`` is the path that the text ends with, where it has to do with a second place.
    """

    path: KeyPath
    text: str
    because: tuple[KeyPath, ...] = ()
    other: KeyPath = ()
