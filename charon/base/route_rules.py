"""What a route may say, once: the configuration refuses by these tables what the data path could not compile.

Each function answers with what is wrong, for the user, or None.
"""

from __future__ import annotations

import re
from typing import Final

from charon.base.units import quoted

REDIRECTS: Final = (301, 302, 303, 307, 308)
"""Statuses of a redirect."""

RETRY_CONDITIONS: Final = ("connect-failure", "refused", "reset", "timeout", "5xx", "gateway-error")
"""Words for what is tried again, besides single statuses from 400 to 599."""

SMALLEST_RATE: Final = 1e-6
"""Requests per second; below it lies nothing that anyone means, and at last numbers that have no reciprocal."""

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 section 5.6.2: names of fields, cookies (RFC 6265 section 4.1.1) and methods."""

FORBIDDEN_IN_PATHS: Final = re.compile(r"[\x00-\x1f\x7f]|%00")
"""Controls, and an escaped NUL, which cuts a path short in C programs and is refused in requests too."""


def retry_condition(word: str) -> str | None:
    """The one spelling of a retry condition (``-`` and ``_`` are the same, case does not matter); None: it is none."""
    plain = word.strip().lower().replace("_", "-")
    return plain if plain in RETRY_CONDITIONS or re.fullmatch("[45][0-9]{2}", plain) else None


# -- header fields ----------------------------------------------------------------------------------------------------

FOLD: Final = bytes(range(256)).lower().replace(b"_", b"-")
"""Names are compared with ``_`` read as ``-`` (``bytes.translate``): CGI, WSGI and their kin do so, and a field that
was to be removed must not reach the application under its other spelling."""

_THIS_HOP: Final = dict.fromkeys(
    b"connection keep-alive proxy-connection te upgrade http2-settings trailer expect".split(),
    "it concerns this hop alone, for which Charon speaks",
)
_FRAMING: Final = dict.fromkeys(
    b"content-length transfer-encoding".split(), "it says where the message ends, which Charon alone decides"
)
_CHARON: Final = dict.fromkeys(
    b"via forwarded x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-client-cert x-real-ip".split(),
    "Charon writes it itself",
)
_OF_RESPONSES: Final = {**_THIS_HOP, **_FRAMING}
_OF_REQUESTS: Final = {
    **_OF_RESPONSES,
    **_CHARON,
    b"host": "rewrite.host changes it",
    b"proxy": "applications read it as HTTP_PROXY",
}


def edit_problem(name: str, *, request: bool) -> str | None:
    """Why no route may set, add or remove the field ``name`` of requests, or of answers."""
    if TOKEN.fullmatch(name) is None:
        return f"{quoted(name)} is not the name of a header field; letters, digits and !#$%&'*+-.^_`|~"
    reason = (_OF_REQUESTS if request else _OF_RESPONSES).get(name.encode("ascii").translate(FOLD))
    return None if reason is None else f"{name} cannot be edited: {reason}"


# -- regular expressions ----------------------------------------------------------------------------------------------

_LONGEST_REGEX: Final = 2000
_MOST_GROUPS: Final = 50
"""Bounds that keep compiling far from the interpreter's recursion limit, however deep the caller stands."""


def regex_problem(text: str) -> str | None:
    """Why ``text`` is no regular expression over paths, which are bytes and ASCII."""
    if not text.isascii():
        return f"{quoted(text)} can match no path; other characters are percent-encoded (%XX), as in caf%C3%A9"
    if len(text) > _LONGEST_REGEX or text.count("(") > _MOST_GROUPS:
        return f"the regular expression is too long; at most {_LONGEST_REGEX} characters and {_MOST_GROUPS} groups"
    try:
        re.compile(text.encode("ascii"))
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        return f"{quoted(text)} is not a regular expression: {error}"
    return None


def substitution_problem(regex: str, substitution: str) -> str | None:
    """Why ``substitution`` cannot take the place of what ``regex`` (a good one) finds in a path."""
    if FORBIDDEN_IN_PATHS.search(substitution):
        return "it must not hold control characters"
    if "?" in substitution or "#" in substitution:
        return "it makes a path only, without ? and #; the request's query is kept"
    if any(escape[1] == "0" for escape in re.finditer(r"\\(.)", substitution)):
        return "\\0 is a NUL, which no path may hold; the whole match is \\g<0>"
    try:
        # The references in a substitution are resolved even where nothing matches.
        re.sub(regex.encode("ascii"), substitution.encode("utf-8"), b"")
    except (re.error, IndexError) as error:
        return str(error)
    return None
