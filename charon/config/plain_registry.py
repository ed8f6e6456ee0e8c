"""A registry that is written the plain way, read at the speed of one regular expression.

Most large registries are written by programs, one service a line or one address a line. YAML's events cost ten times
as much as such lines need, and a change must be in force within a second whatever the registry's size. What this reads
is a small part of YAML, and it reads it as YAML does (a test holds that); anything else at all is left to the parser.
Nothing is judged here: what a name or an address may be is for the registry to say.
"""

from __future__ import annotations

import re
from typing import Final

from charon.config.document import Value

_REMARK: Final = r"[ ]*(?:\#[ -~]*)?\n"
_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_ADDRESS: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,253}:[0-9]{1,5}"
_QUOTED: Final = rf"""(?:{_ADDRESS}|"{_ADDRESS}"|'{_ADDRESS}')"""

_TOP: Final = re.compile(rf"(?:{_REMARK})*services:\n", re.ASCII)
_SERVICE: Final = re.compile(
    rf"""
    (                                                           # all of it, so that nothing is passed over unseen
        [ ][ ](?: ({_NAME}) | "({_NAME})" | '({_NAME})' ):      # two spaces and a name
        (?:
            [ ] ({_QUOTED}) \n                                  # one address
          | [ ] (\[ {_QUOTED} (?: ,[ ]{_QUOTED} )* \]) \n       # [some, in a line]
          | \n ( (?: [ ][ ]-[ ]{_QUOTED}\n )+                   # one a line
               | (?: [ ][ ][ ][ ]-[ ]{_QUOTED}\n )+ )
        )
      | {_REMARK}
    )
    """,
    re.ASCII | re.VERBOSE,
)
_ENTRY: Final = re.compile(r"  [A-Za-z0-9_\"']", re.ASCII)
_NEXT_ENTRY: Final = re.compile(r"\n(?=  [A-Za-z0-9_\"'])", re.ASCII)
_EACH: Final = re.compile(_ADDRESS, re.ASCII)


def read_plain(text: str) -> dict[str, Value] | None:
    """The services in ``text``, addresses as written; None where it is not all plain, or a name comes twice."""
    top = _TOP.match(text)
    found = read_entries(text, top.end()) if top is not None else None
    return found or None


def read_entries(text: str, start: int = 0) -> dict[str, Value] | None:
    """What stands below ``services:``, from ``start`` on; None as for :func:`read_plain`."""
    if not text.endswith("\n"):
        text += "\n"
    found: dict[str, Value] = {}
    seen = start
    count = 0
    for whole, bare, double, single, one, inline, lines in _SERVICE.findall(text, seen):
        seen += len(whole)
        if one:
            found[bare or double or single] = one.strip("\"'")
        elif inline or lines:
            found[bare or double or single] = list(_EACH.findall(inline or lines))
        else:
            continue
        count += 1
    return found if seen == len(text) and count == len(found) else None


def changed_part(before: str, after: str) -> tuple[str, str]:
    """The entries of two plain texts between those that both begin with and those that both end with.

    An entry of a plain text means the same wherever it stands: so what is around these is as it was.
    """
    same = _alike(before, after)
    start = before.rfind("\n", 0, same) + 1
    while start and not _ENTRY.match(before, start, same):
        start = before.rfind("\n", 0, start - 1) + 1
    rest, other = before[start:], after[start:]
    tail = _alike(rest, other, from_the_end=True)
    end = _NEXT_ENTRY.search(rest, len(rest) - tail)
    kept = len(rest) - end.start() - 1 if end is not None else 0
    return rest[: len(rest) - kept], other[: len(other) - kept]


def _alike(one: str, other: str, from_the_end: bool = False) -> int:
    """How many characters the two begin with alike, or end with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if from_the_end:
            same = one[len(one) - middle : len(one) - low] == other[len(other) - middle : len(other) - low]
        else:
            same = one[low:middle] == other[low:middle]
        if same:
            low = middle
        else:
            high = middle - 1
    return low
