"""The kinds of value that have to do with HTTP: field names and values, methods, hosts with ports, status codes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from charon.base import addresses
from charon.base.route_rules import FORBIDDEN_IN_PATHS, REDIRECTS, TOKEN, edit_problem
from charon.base.units import quoted
from charon.config.problems import one_of
from charon.config.schema.values import kind_of, path_text, scalar, wrong

STANDARD_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})

_STRING: Final = {"type": "string"}


def _header_name(value: Any) -> str:
    text = str(value).strip()
    if TOKEN.fullmatch(text) is None:
        raise ValueError(f"{quoted(value)} is not the name of a header field; letters, digits and !#$%&'*+-.^_`|~")
    return text


def _editable(*, request: bool) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        name = _header_name(value)
        problem = edit_problem(name, request=request)
        if problem is not None:
            raise ValueError(problem)
        return name

    return parse


def _header_value(value: Any) -> str:
    # RFC 9110 section 5.5, without the octets above 0x7F that no two programs read alike.
    text = str(value).strip(" \t")
    if not re.fullmatch(r"[\t\x20-\x7e]*", text):
        # It is not shown: it may be a secret, of the environment even.
        raise ValueError("this is not the value of a header field; only printable ASCII may stand there")
    return text


def _method(value: Any) -> str:
    text = str(value).strip()
    if TOKEN.fullmatch(text) is None:
        raise ValueError(f"{quoted(value)} is not a method; write a word such as GET or POST")
    return text.upper() if text.upper() in STANDARD_METHODS else text


def _no_twins(fields: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for name in fields:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise wrong(f"{name} and {other} are the same header field; give it once")
    return fields


def _redirect_status(value: Any) -> int:
    text = str(value).strip()
    if text not in map(str, REDIRECTS):
        raise ValueError(f"{quoted(value)} is not the status of a redirect; write {one_of(map(str, REDIRECTS))}")
    return int(text)


def _scheme(value: Any) -> str:
    text = str(value).strip().lower()
    if text not in ("http", "https"):
        raise ValueError(f"{quoted(value)} is not a scheme; write http or https")
    return text


def _substitution(value: Any) -> str:
    text = str(value)
    if not re.fullmatch(r"[!-~]+", text) or "?" in text or "#" in text:
        raise ValueError(f"{quoted(text)} is not a path; other characters are percent-encoded, '?' and '#' end a path")
    if FORBIDDEN_IN_PATHS.search(text):
        raise ValueError(f"{quoted(text)} is not a path; %00, a NUL, stands in no path")
    return text


def _target_host(value: Any) -> str:
    """``host`` or ``host:port``, as it stands in a Host field or a URL."""
    text = str(value).strip()
    problem = addresses.authority_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text.lower()


def _redirect_path(value: Any) -> str:
    """A path, and after a ``?`` a query, which takes the place of the request's own."""
    path, mark, query = str(value).partition("?")
    path = path_text(path)
    if not re.fullmatch(r"[!$-;=?-\[\]_a-z~]*", query) or re.search(r"%(?![0-9A-Fa-f]{2})", query):
        raise ValueError(f"{quoted(value)} has no valid query; other characters are percent-encoded")
    if FORBIDDEN_IN_PATHS.search(query):
        raise ValueError(f"{quoted(value)} has a NUL in it; write it without %00")
    return path + mark + query


def source(*words: str, named: Iterable[str]) -> tuple[Any, Any]:
    """Annotations of what a value is taken from: one of ``words``, or ``KIND:NAME`` for a kind in ``named``."""
    kinds = tuple(named)
    allowed = one_of([*words, *(f"{kind}:NAME" for kind in kinds)])

    def parse(value: Any) -> str:
        text = str(value).strip()
        kind, colon, name = text.partition(":")
        if text.lower() in words:
            return text.lower()
        if kind.lower() in kinds and colon and TOKEN.fullmatch(name):
            return f"{kind.lower()}:{name}"
        raise ValueError(f"{quoted(value)} is not known; write {allowed}")

    pattern = "|".join([*words, *(f"{kind}:.+" for kind in kinds)])
    return kind_of(parse, allowed, {"type": "string", "pattern": f"^({pattern})$"}, none=not words)


def _status(value: Any) -> tuple[int, int]:
    text = str(scalar(value, "a status")).strip()
    match = re.fullmatch(r"([1-5][0-9]{2})(?: ?- ?([1-5][0-9]{2}))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise wrong(f"{quoted(value)} is not a status; write a number from 100 to 599, or a range such as 200-299")
    return int(match[1]), int(match[2] or match[1])


def _statuses(value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, (list, tuple)):
        return (_status(value),)
    if not value:
        raise wrong("the list is empty; give at least one status")
    return tuple(_status(item) for item in value)


_ONE_STATUS: Final = [
    {"type": "integer", "minimum": 100, "maximum": 599},
    {"type": "string", "pattern": r"^[1-5][0-9]{2}( ?- ?[1-5][0-9]{2})?$|\$\{"},
]
_STATUSES: Final[Mapping[str, Any]] = {
    "title": "a status, a range, or a list of them",
    "anyOf": [*_ONE_STATUS, {"type": "array", "items": {"anyOf": _ONE_STATUS, "title": "a status or a range"}}],
}

HeaderName = Annotated[str, *kind_of(_header_name, "the name of a header field", _STRING)]
HeaderValue = Annotated[str, *kind_of(_header_value, "the value of a header field", _STRING, {"type": "number"})]
HeaderMap = Annotated[dict[HeaderName, HeaderValue], AfterValidator(_no_twins)]
RequestField = Annotated[str, *kind_of(_editable(request=True), "the name of a header field", _STRING)]
RequestFields = Annotated[dict[RequestField, HeaderValue], AfterValidator(_no_twins)]
ResponseField = Annotated[str, *kind_of(_editable(request=False), "the name of a header field", _STRING)]
ResponseFields = Annotated[dict[ResponseField, HeaderValue], AfterValidator(_no_twins)]
Method = Annotated[str, *kind_of(_method, "a method", _STRING)]
TargetHost = Annotated[str | None, *kind_of(_target_host, "a host, maybe with a port", _STRING, none=True)]
Statuses = Annotated[tuple[tuple[int, int], ...], BeforeValidator(_statuses), WithJsonSchema(dict(_STATUSES))]
RedirectStatus = Annotated[int, *kind_of(_redirect_status, one_of(map(str, REDIRECTS)), {"enum": [*REDIRECTS]})]
RedirectPath = Annotated[
    str | None, *kind_of(_redirect_path, "a path, maybe with a query", {"type": "string", "pattern": "^/"}, none=True)
]
Scheme = Annotated[str | None, *kind_of(_scheme, "http or https", {"enum": ["http", "https"]}, none=True)]
Substitution = Annotated[str | None, *kind_of(_substitution, "a path with groups", _STRING, none=True)]
