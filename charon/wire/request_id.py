"""X-Request-Id: the name of one request in all logs that it leaves a line in.

It is taken from anybody, as traces are: it is only ever a name, and its characters cannot end a line or a field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

FIELD: Final = b"X-Request-Id"

_FOLDED: Final = FIELD.lower()
_VALID: Final = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")

Fields = list[tuple[bytes, bytes]]


def identified(fields: Fields, fresh: Callable[[], bytes]) -> tuple[bytes, Fields]:
    """The name of a request, and its fields with exactly that name in them.

    A client's is kept when there is one and it is well formed; otherwise ``fresh`` gives one.
    """
    given = [value for name, value in fields if name.lower() == _FOLDED]
    if len(given) == 1 and _VALID.fullmatch(given[0]):
        return given[0], fields
    made = fresh()
    return made, [*without(fields), (FIELD, made)]


def without(fields: Fields) -> Fields:
    """``fields`` without any such name."""
    return [field for field in fields if field[0].lower() != _FOLDED]


def line(name: bytes) -> bytes:
    """The field line, with its CRLF."""
    return b"%b: %b\r\n" % (FIELD, name)
