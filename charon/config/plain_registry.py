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
_EACH: Final = re.compile(_ADDRESS, re.ASCII)


def read_plain(text: str) -> dict[str, Value] | None:
    """The services in ``text``, addresses as written; None where it is not all plain, or a name comes twice."""
    if not text.endswith("\n"):
        text += "\n"
    top = _TOP.match(text)
    if top is None:
        return None
    found: dict[str, Value] = {}
    seen = top.end()
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
    return found if seen == len(text) and count == len(found) and count else None
