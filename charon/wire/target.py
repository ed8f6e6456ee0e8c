"""Request targets: their forms (RFC 9112 3.2), one spelling for every path (RFC 3986 6.2.2), and the Host rule."""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Final

from charon.base.errors import BAD_REQUEST, BadMessage
from charon.wire import grammar

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

# What each escape becomes in a path, by its two digits in upper case: an unreserved character (RFC 3986 6.2.2.2), or
# the same escape in upper case (6.2.2.1). NUL is not in the table: it cuts the path short in C programs.
_ESCAPES: Final[dict[bytes, bytes]] = {
    b"%02X" % code: bytes([code]) if code in _UNRESERVED else b"%%%02X" % code for code in range(1, 256)
}


def is_host(value: bytes) -> bool:
    """True for ``uri-host [":" port]`` as grammar.HOST has it: never empty, no userinfo."""
    if value.startswith(b"["):
        return _is_bracketed(value)
    return grammar.HOST.fullmatch(value) is not None


@functools.lru_cache(maxsize=256)
def _is_bracketed(value: bytes) -> bool:
    match = grammar.HOST.fullmatch(value)
    if match is None:
        return False
    try:
        ipaddress.IPv6Address(match[1][1:-1].decode("ascii"))
    except ValueError:
        return False
    return True


def _replace_escape(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        raise BadMessage(BAD_REQUEST, "an escape in the path is not two hex digits")
    try:
        return _ESCAPES[digits.upper()]
    except KeyError:
        raise BadMessage(BAD_REQUEST, "an escaped NUL in the path") from None


def _remove_dot_segments(path: bytes) -> bytes:
    """RFC 3986 5.2.4 for a path that begins with "/". Empty segments stay; ".." at the root stays at the root."""
    segments = path.split(b"/")
    last = segments[-1]
    kept: list[bytes] = []
    for segment in segments[1:]:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if last in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def normalise_path(path: bytes) -> bytes:
    """The one spelling of ``path``, which begins with "/": so that what is routed is what is served.

    Unreserved characters are decoded, remaining escapes upper-cased, dot segments removed, encoded ones too. Doubled
    slashes stay, and ``%2F`` stays data. Raises :class:`BadMessage` (BAD_REQUEST) for a broken escape and for ``%00``.
    """
    if b"%" in path:
        path = grammar.PERCENT.sub(_replace_escape, path)
    if b"/." in path:
        path = _remove_dot_segments(path)
    return path


def resolve(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """The path, the target to forward, and the authority if the target names one, for any form but a plain path.

    ``target`` has the letters of grammar.REQUEST_LINE. Raises :class:`BadMessage` (BAD_REQUEST).
    """
    if target.startswith(b"/"):
        path, mark, query = target.partition(b"?")
        path = normalise_path(path)
        return path, path + mark + query, None
    if target == b"*":
        if method != b"OPTIONS":
            raise BadMessage(BAD_REQUEST, "the target * is for OPTIONS only")
        return b"*", b"*", None
    match = grammar.ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise BadMessage(BAD_REQUEST, "the target is neither a path nor an http or https URI")
    authority, path, query = match.groups()
    if not is_host(authority):
        raise BadMessage(BAD_REQUEST, "the authority of the target is not a host with an optional port")
    if not path:
        # RFC 9112 3.2.4: the last proxy turns OPTIONS for the whole server back into the asterisk.
        if method == b"OPTIONS" and not query:
            return b"*", b"*", authority
        path = b"/"
    path = normalise_path(path)
    return path, path + query, authority
