"""What a route changes in a message: its target, its header fields, or the answer to send instead.

Everything is compiled once, when a snapshot comes, and refuses there (ValueError) what could break a message or reach
into what Charon itself says: framing, this hop's own fields, control bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from charon.base.addresses import authority_problem
from charon.base.route_rules import FOLD, FORBIDDEN_IN_PATHS, REDIRECTS, edit_problem, substitution_problem
from charon.policy.routes import compile_regex

Fields = list[tuple[bytes, bytes]]


class RewriteSettings(Protocol):
    """What takes the place of the matched prefix and of the host; or a pattern over the path and its substitution."""

    @property
    def path_prefix(self) -> str | None: ...

    @property
    def host(self) -> str | None: ...

    @property
    def regex(self) -> str | None: ...

    @property
    def substitution(self) -> str | None: ...


class RedirectSettings(Protocol):
    """Where a redirect goes; None keeps what the request had."""

    @property
    def status(self) -> int: ...

    @property
    def scheme(self) -> str | None: ...

    @property
    def host(self) -> str | None: ...

    @property
    def path(self) -> str | None: ...


class EditSettings(Protocol):
    """Changes to header fields, in this order."""

    @property
    def remove(self) -> Sequence[str]: ...

    @property
    def set(self) -> Sequence[tuple[str, str]]: ...

    @property
    def add(self) -> Sequence[tuple[str, str]]: ...


# RFC 9110 5.5: no controls but the tab; the bytes above 0x7f are obs-text.
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# What cannot stand in a target as Charon forwards it (see charon.wire.grammar): everything but the letters that are
# let through, and a percent sign that begins no escape.
_NOT_IN_PATH: Final = re.compile(rb"[^!$%&'()*+,\-./0-9:;=@A-Z\[\]^_`a-z{|}~]|%(?![0-9A-Fa-f]{2})")
_NOT_IN_QUERY: Final = re.compile(rb"[^!$%&'()*+,\-./0-9:;=?@A-Z\[\]^_`a-z{|}~]|%(?![0-9A-Fa-f]{2})")


def _encode(text: bytes, refused: re.Pattern[bytes] = _NOT_IN_PATH) -> bytes:
    """``text`` with ``%XX`` for each byte that a path (or query) may not hold."""
    return refused.sub(lambda match: b"%%%02X" % match[0][0], text)


class Rewrite:
    """A route's changes to the target and the host; ``host`` is the new Host, or None to keep it."""

    __slots__ = ("_drop", "_normalise", "_pattern", "_prefix", "_substitution", "host")

    def __init__(self, settings: RewriteSettings, matched: str | None, normalise: Callable[[bytes], bytes]) -> None:
        """``matched`` is the route's ``path_prefix`` or ``path``. ``normalise`` gives a path its one spelling, and is
        what the paths of requests went through (charon.wire.target.normalise_path): what a substitution puts
        together must not leave the part of the upstream that it names, as ``/public/..`` would.
        """
        if (settings.regex is None) != (settings.substitution is None):
            raise ValueError("regex and substitution need each other")
        if settings.regex is not None and settings.path_prefix is not None:
            raise ValueError("path_prefix and regex cannot both rewrite the path; keep one")
        self._normalise = normalise
        self._drop = 0
        self._prefix: bytes | None = None
        self._pattern: re.Pattern[bytes] | None = None
        self._substitution = b""
        if settings.path_prefix is not None:
            replacement = _path_text(settings.path_prefix, "path_prefix")
            # Between whole segments: `/v1` and `/v1/` name the same ones.
            self._prefix = normalise(_encode(replacement)).rstrip(b"/")
            self._drop = len((matched or "").encode("ascii").rstrip(b"/"))
        if settings.regex is not None and settings.substitution is not None:
            self._pattern = compile_regex(settings.regex)
            self._substitution = _template(settings.regex, settings.substitution)
        self.host = None if settings.host is None else _host_text(settings.host)

    def target(self, path: bytes, query: bytes) -> bytes:
        """The target to forward, in origin form, for a request that the route matched.

        ``path`` is normalised, ``query`` is what follows it, with its ``?``; the query is kept. ``*`` stays.
        Raises what ``normalise`` raises for a path that cannot be repaired: one with an escaped NUL, which only a
        pattern that takes escapes apart can make.
        """
        if not path.startswith(b"/"):
            return path + query
        if self._prefix is not None:
            return (self._prefix + path[self._drop :] or b"/") + query
        if self._pattern is not None:
            path = _encode(self._pattern.sub(self._substitution, path))
            path = self._normalise(path if path.startswith(b"/") else b"/" + path)
        return path + query


def _path_text(text: str, key: str) -> bytes:
    """A path from the configuration, as bytes."""
    if not text.startswith("/"):
        raise ValueError(f"{key} must begin with /")
    if "?" in text or "#" in text:
        raise ValueError(f"{key} is a path only, without ? and #; the request's query is kept")
    if FORBIDDEN_IN_PATHS.search(text):
        raise ValueError(f"{key} must not hold control characters")
    return text.encode("utf-8")


def _template(regex: str, text: str) -> bytes:
    problem = substitution_problem(regex, text)
    if problem is not None:
        raise ValueError(f"{text!r} is not a substitution for {regex!r}: {problem}")
    return text.encode("utf-8")


def _host_text(text: str) -> bytes:
    problem = authority_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text.encode("ascii")


class Redirect:
    """An answer that sends the client elsewhere, with ``status``."""

    __slots__ = ("_host", "_path", "_query", "_scheme", "status")

    def __init__(self, settings: RedirectSettings) -> None:
        if settings.status not in REDIRECTS:
            raise ValueError(f"{settings.status} is no redirect; use one of {', '.join(map(str, REDIRECTS))}")
        if settings.scheme is None and settings.host is None and settings.path is None:
            raise ValueError("a redirect needs a scheme, a host or a path, or it leads back to where it was")
        if settings.scheme not in (None, "http", "https"):
            raise ValueError(f"{settings.scheme!r} is not a scheme; use http or https")
        self.status = settings.status
        self._scheme = None if settings.scheme is None else settings.scheme.encode("ascii")
        self._host = None if settings.host is None else _host_text(settings.host)
        self._path: bytes | None = None
        self._query: bytes | None = None
        if settings.path is not None:
            path, mark, query = settings.path.partition("?")
            self._path = _encode(_path_text(path, "path"))
            if mark:
                if FORBIDDEN_IN_PATHS.search(query) or "#" in query:
                    raise ValueError("path must not hold control characters or #")
                self._query = b"?" + _encode(query.encode("utf-8"), _NOT_IN_QUERY)

    def location(self, scheme: bytes, host: bytes, path: bytes, query: bytes) -> bytes:
        """The value of Location (RFC 9110 10.2.2), absolute, for a request that came over ``scheme`` for ``host``.

        ``query`` has its ``?`` and is kept, unless the redirect's own path has one. A new scheme without a new host
        means that scheme's own port. Without any host (HTTP/1.0) the value is a path.
        """
        new_scheme = self._scheme or scheme
        if self._host is not None:
            host = self._host
        elif new_scheme != scheme:
            host = _without_port(host)
        if self._path is not None:
            path = self._path
        elif not path.startswith(b"/"):
            path = b"/"
        if self._query is not None:
            query = self._query
        if host:
            return b"%b://%b%b%b" % (new_scheme, host, path, query)
        # RFC 3986 4.2: a reference that begins with two slashes would name another host.
        return (b"/." + path if path.startswith(b"//") else path) + query


def _without_port(authority: bytes) -> bytes:
    host, colon, port = authority.rpartition(b":")
    return host if colon and port.isdigit() else authority


class FieldEdits:
    """A route's changes to the header fields of requests, or of responses."""

    __slots__ = ("_drop", "_tail")

    def __init__(self, settings: EditSettings, *, request: bool) -> None:
        removed = [_name(name, request) for name in settings.remove]
        replaced = [_field(field, request) for field in settings.set]
        self._drop = frozenset(name.translate(FOLD) for name in [*removed, *(name for name, _ in replaced)])
        self._tail = replaced + [_field(field, request) for field in settings.add]

    def apply(self, fields: Fields) -> Fields:
        """A new list: ``fields`` without those removed and set, then those set, then those added."""
        drop = self._drop
        if not drop:
            return fields + self._tail
        fold = FOLD
        kept = [field for field in fields if field[0].translate(fold) not in drop]
        kept += self._tail
        return kept


def _name(text: str, request: bool) -> bytes:
    problem = edit_problem(text, request=request)
    if problem is not None:
        raise ValueError(problem)
    return text.encode("ascii")


def _field(field: tuple[str, str], request: bool) -> tuple[bytes, bytes]:
    name = _name(field[0], request)
    value = field[1].encode("utf-8").strip(b" \t")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"the value of {field[0]} holds a control character, such as a line break")
    return name, value
