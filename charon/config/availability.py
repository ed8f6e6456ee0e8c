"""What the schema knows and this version cannot do yet: the only list of it.

A feature that lands deletes its line here, and with it the refusal, the mark in the generated documents and the gap in
``etc/config.yaml``. A key is refused unless its value switches the feature off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

CONFIG_RELOAD: Final = True
"""Is a changed config.yaml brought into force without a restart? (The registry always is.)"""


def never(value: object) -> bool:
    """A key that has no value meaning "off"."""
    return False


def absent(value: object) -> bool:
    """Off when nothing is given."""
    return value is None or value == {} or value == [] or str(value).strip().lower() == "none"


@dataclass(frozen=True, slots=True)
class Later:
    """A key that is not available yet, at the top level, in a listener, or in a service; ``*`` is any one step.

    ``off`` tells the values that are accepted all the same. A key below ``services.*`` or ``routes.*`` is named so.
    Where ``words`` are given, the key itself is available, and only those values of it are not.
    """

    key: str
    off: Callable[[Any], bool] = never
    words: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        """Is ``value`` one that this version can do?"""
        if self.words:
            return str(value).strip().lower() not in self.words
        return value is None or self.off(value)


NOT_YET: Final = (Later("admin.address", absent),)

REFUSAL: Final = "not available in this version"


def unavailable(path: tuple[str | int, ...]) -> Later | None:
    """The entry of the table for the key at ``path``."""
    steps = [str(step) for step in path]
    found = _BY_KEY.get(_pattern(steps))
    if found is None and len(steps) > 2 and steps[0] in ("listeners", "services"):
        found = _BY_KEY.get(_pattern(steps[2:]))
    return found


def refused(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of everything in ``value`` (as read from the file) that this version cannot do."""
    later = unavailable(path) if path else None
    if later is not None and not later.accepts(value):
        return [path]
    if isinstance(value, Mapping):
        return [found for key, below in value.items() for found in refused(below, (*path, key))]
    if isinstance(value, list):
        return [found for index, below in enumerate(value) for found in refused(below, (*path, index))]
    return []


def _pattern(steps: list[str]) -> str:
    """The steps as the table writes them: what is only a number or a name in a list or map becomes ``*``."""
    marked: list[str] = []
    for step in steps:
        inside = bool(marked) and marked[-1] in ("routes", "services", "listeners")
        marked.append("*" if inside else step)
    return ".".join(marked)


_BY_KEY: Final = {later.key: later for later in NOT_YET}
