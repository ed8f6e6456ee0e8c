"""What went wrong of late: warnings, errors and failed requests, for those who look on while it happens.

A worker collects what it logs (:class:`Problems`), bounded, and reports it once a second; the supervisor keeps the last
ones of all processes (:class:`RecentProblems`). The log has them all; here a flood of one kind must not cost anything
nor push out everything else, so it becomes one entry that says how many more there were.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Final

from charon.telemetry.text import bounded, clip, to_text

MAX_KEPT: Final = 200
"""Problems that the supervisor remembers."""

MAX_REPORTED: Final = 20
"""Problems in one report; further ones are only counted."""

_ALIKE: Final = 3
"""Problems of one kind in one report that are told one by one."""

_TEXT: Final = 300
_FIELDS: Final = 32
"""Characters of a text in an entry, and fields of it."""

REPEATED: Final = "repeated"
"""The field that says how many more of the same kind came in the same second."""

Problem = dict[str, Any]
"""The fields of a log line."""

_KIND: Final = ("message", "reason", "upstream", "status")


class Problems:
    """Those of one process since they were last taken."""

    __slots__ = ("_found", "_kinds", "_unheard")

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._kinds: dict[tuple[Any, ...], list[Any]] = {}
        self._unheard = 0

    def add(self, line: Problem) -> None:
        """Note a line of the log, which is not changed."""
        kind = tuple([line.get(key) for key in _KIND])
        seen = self._kinds.get(kind)
        if seen is not None and seen[0] >= _ALIKE:
            seen[1][REPEATED] = seen[1].get(REPEATED, 0) + 1
            return
        if len(self._found) >= MAX_REPORTED:
            self._unheard += 1
            return
        entry = _held(line)
        self._found.append(entry)
        self._kinds[kind] = [1 if seen is None else seen[0] + 1, entry]

    def take(self) -> list[Problem]:
        """What was noted, and forget it. The last entry also stands for kinds that there was no room for."""
        found, unheard = self._found, self._unheard
        if found:
            self._found, self._kinds, self._unheard = [], {}, 0
            if unheard:
                found[-1][REPEATED] = found[-1].get(REPEATED, 0) + unheard
        return found


class RecentProblems:
    """The last ones of all processes, numbered from 1 in the order in which they became known."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, Problem]] = deque(maxlen=MAX_KEPT)
        self.last = 0

    def add(self, line: Problem, **fields: Any) -> None:
        """Keep a line of the log, with ``fields``."""
        self.last += 1
        self._kept.append((self.last, _held({**fields, **line})))

    def add_reported(self, said: Any, worker: int) -> None:
        """Keep what a worker has reported. Its texts are a peer's in part: they are held to what may be shown.

        Raises ValueError when it is no list of log lines.
        """
        if not isinstance(said, list) or not all(isinstance(line, dict) for line in said):
            raise ValueError("problems are a list of log lines")
        for line in said[:MAX_REPORTED]:
            self.add(line, worker=worker)

    def since(self, number: int) -> list[Problem]:
        """Those after ``number``, the oldest first, each with its ``id``."""
        return [{"id": own, **line} for own, line in self._kept if own > number]


def _held(line: Problem) -> Problem:
    """A line within bounds, with values that JSON can carry."""
    return {clip(to_text(key), 50): bounded(value, _TEXT) for key, value in islice(line.items(), _FIELDS)}
