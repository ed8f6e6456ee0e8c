"""The kinds of value that keys have. Each reads the text of the file, or says what is wrong and what is allowed."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from charon.base import addresses, units
from charon.base.route_rules import regex_problem
from charon.base.units import quoted
from charon.config.problems import nearest, one_of

TRUE: Final = frozenset({"true", "yes", "on"})
FALSE: Final = frozenset({"false", "no", "off"})
NONE: Final = frozenset({"none", "null", "~"})

_VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}
"""A value that holds ``${NAME}`` cannot be judged before the environment is known."""


def wrong(text: str) -> PydanticCustomError:
    """A mistake in a value; ``text`` is what the user reads."""
    return PydanticCustomError("charon", "{text}", {"text": text})


def scalar(value: Any, what: str) -> Any:
    """``value``, unless it is a block or a list."""
    if isinstance(value, dict):
        raise wrong(f"a block of keys is given where {what} is expected")
    if isinstance(value, (list, tuple)):
        raise wrong(f"a list is given where {what} is expected")
    if value is None:
        raise wrong(f"nothing is given where {what} is expected")
    return value


def kind_of(parse: Callable[[Any], Any], what: str, *schemas: dict[str, Any], none: bool = False) -> tuple[Any, Any]:
    """The two annotations of a kind of value: how it is read, and how JSON Schema describes it."""

    def read(value: Any) -> Any:
        if none and (value is None or (isinstance(value, str) and value.strip().lower() in NONE)):
            return None
        try:
            return parse(scalar(value, what))
        except ValueError as error:
            raise wrong(str(error)) from None

    allowed = [*schemas, _VARIABLE]
    if none:
        allowed += [{"type": "null"}, {"const": "none"}]
    return BeforeValidator(read), WithJsonSchema({"anyOf": allowed, "title": what})


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise ValueError(f"{quoted(value)} is not a switch; write true or false")


def _text(value: Any) -> str:
    text = str(value)
    if not text.strip():
        raise ValueError("the text is empty")
    if not text.isprintable():
        raise ValueError(f"{quoted(text)} has a control character or a line break in it")
    return text


def _name(value: Any) -> str:
    text = _text(value)
    if len(text) > 200 or any(c.isspace() for c in text):
        raise ValueError(f"{quoted(text)} is not a name; at most 200 characters, no spaces")
    return text


def _duration(value: Any) -> float:
    return units.parse_duration(value)


def _some_time(value: Any) -> float:
    seconds = units.parse_duration(value)
    if seconds == 0:
        raise ValueError(f"{quoted(value)} is no time at all; write more than 0")
    return seconds


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Reads a whole number from ``low`` to ``high``."""

    def parse(value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"{quoted(value)} is not allowed; write a whole number from {low} to {high}")
        return int(text)

    return parse


def number(low: float, high: float) -> Callable[[Any], float]:
    """Reads a number from ``low`` to ``high``."""

    def parse(value: Any) -> float:
        try:
            result = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            result = math.nan
        if not low <= result <= high:
            raise ValueError(f"{quoted(value)} is not allowed; write a number from {low:g} to {high:g}")
        return result

    return parse


def Whole(low: int, high: int, *, none: bool = False) -> tuple[Any, Any]:
    """Annotations of a whole number."""
    digits = {"type": "string", "pattern": "^[0-9]+$"}
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return kind_of(whole(low, high), "a whole number", schema, digits, none=none)


def Number(low: float, high: float) -> tuple[Any, Any]:
    """Annotations of a number."""
    return kind_of(number(low, high), "a number", {"type": "number", "minimum": low, "maximum": high})


def Choice(*words: str, none: bool = False, **aliases: str) -> tuple[Any, Any]:
    """Annotations of one word out of a few, in lower case; ``aliases`` are accepted as well."""

    def parse(value: Any) -> str:
        word = str(value).strip().lower()
        word = aliases.get(word, word)
        if word in words:
            return word
        meant = nearest(word, words)
        hint = f" (did you mean {meant}?)" if meant else ""
        raise ValueError(f"{quoted(value)} is not known{hint}; write {one_of(words)}")

    return kind_of(parse, f"one of {', '.join(words)}", {"enum": [*words]}, none=none)


def Size(low: int = 0, high: int = units.LARGEST, *, none: bool = False) -> tuple[Any, Any]:
    """Annotations of a number of bytes."""

    def parse(value: Any) -> int:
        size = units.parse_size(value)
        if not low <= size <= high:
            most = f" and at most {units.format_size(high)}" if high < units.LARGEST else ""
            raise ValueError(f"{quoted(value)} is not allowed; write at least {units.format_size(low)}{most}")
        return size

    pattern = {"type": "string", "pattern": units.SIZE_PATTERN}
    return kind_of(parse, "a size", {"type": "integer", "minimum": low}, pattern, none=none)


def _network(value: Any) -> str:
    text = str(value).strip()
    if text.lower() == "unix":
        return "unix"
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    allowed = "write an address or a network such as 10.0.0.0/8, or unix"
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quoted(value)} is not a network; {allowed}") from None
    raise ValueError(f"{quoted(value)} has address bits to the right of its mask (did you mean {meant}?); {allowed}")


def _route_host(value: Any) -> str:
    text = str(value).strip()
    host = text.removeprefix("*.")
    if host.startswith("[") and host.endswith("]"):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]" if host == text else _no_host(text)
        except ValueError:
            _no_host(text)
    if ":" in host:
        raise ValueError(f"{quoted(text)} has a port; write the host alone, the port of a request is ignored")
    if "*" in host or addresses.host_problem(host) is not None:
        _no_host(text)
    return text.lower().rstrip(".")


def _no_host(text: str) -> str:
    raise ValueError(f"{quoted(text)} is not a host; write a name such as api.example.com, or *.example.com")


def path_text(value: Any) -> str:
    """A path as requests have it after normalisation."""
    text = _text(value)
    if not text.startswith("/"):
        raise ValueError(f"{quoted(text)} is not a path; it begins with '/'")
    if "%00" in text:
        raise ValueError(f"{quoted(text)} is not a path; %00, a NUL, stands in no path")
    if not text.isascii() or any(c in text for c in ' ?#"<>\\^`{|}'):
        raise ValueError(f"{quoted(text)} is not a path; other characters are percent-encoded, '?' and '#' end a path")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"{quoted(text)} is not a path; '%' is followed by two hex digits")
    plain = re.search(r"%(?:2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])", text)
    if plain:
        raise ValueError(f"{quoted(text)} has {plain.group()} in it; write the character itself, as paths are compared")
    if any(segment in (".", "..") for segment in text.split("/")):
        raise ValueError(f"{quoted(text)} has '.' or '..' in it; write the path they lead to")
    return re.sub(r"%..", lambda escape: escape.group().upper(), text)


def _path_regex(value: Any) -> str:
    text = str(value)
    problem = regex_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def _static_target(value: Any) -> addresses.Upstream:
    return addresses.parse_upstream(str(value).strip())


def _path_text(value: Any) -> str:
    text = str(value)
    if not text.strip() or "\0" in text or text.endswith("/"):
        raise ValueError(f"{quoted(value)} is not the path of a file")
    return text


_STRING: Final = {"type": "string"}
_SECONDS: Final = ({"type": "number", "minimum": 0}, {"type": "string", "pattern": units.DURATION_PATTERN})
_PORT: Final = ({"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "string", "pattern": "^[0-9]{1,5}$"})

Boolean = Annotated[bool, *kind_of(_boolean, "true or false", {"type": "boolean"})]
OptionalBoolean = Annotated[bool | None, *kind_of(_boolean, "true or false", {"type": "boolean"}, none=True)]
Text = Annotated[str, *kind_of(_text, "text", _STRING, {"type": "number"})]
OptionalText = Annotated[str | None, *kind_of(_text, "text", _STRING, {"type": "number"}, none=True)]
Name = Annotated[str, *kind_of(_name, "a name", _STRING, {"type": "number"})]
OptionalName = Annotated[str | None, *kind_of(_name, "a name", _STRING, {"type": "number"}, none=True)]
Duration = Annotated[float, *kind_of(_duration, "a duration", *_SECONDS)]
PositiveDuration = Annotated[float, *kind_of(_some_time, "a duration", *_SECONDS)]
OptionalDuration = Annotated[float | None, *kind_of(_some_time, "a duration", *_SECONDS, none=True)]
Port = Annotated[int, *kind_of(lambda v: addresses.parse_port(v, zero=True), "a port", *_PORT)]
Network = Annotated[str, *kind_of(_network, "a network", _STRING)]
RouteHost = Annotated[str | None, *kind_of(_route_host, "a host", _STRING, none=True)]
UrlPath = Annotated[str, *kind_of(path_text, "a path", {"type": "string", "pattern": "^/"})]
OptionalUrlPath = Annotated[str | None, *kind_of(path_text, "a path", {"type": "string", "pattern": "^/"}, none=True)]
PathRegex = Annotated[str | None, *kind_of(_path_regex, "a regular expression", _STRING, none=True)]
ListenAddress = Annotated[
    addresses.Address, *kind_of(lambda v: addresses.parse_listen(str(v).strip()), "an address to listen on", _STRING)
]
OptionalListenAddress = Annotated[
    addresses.Address | None,
    *kind_of(lambda v: addresses.parse_listen(str(v).strip()), "an address to listen on", _STRING, none=True),
]
StaticTarget = Annotated[addresses.Upstream, *kind_of(_static_target, "an address", _STRING)]
OptionalStaticTarget = Annotated[addresses.Upstream | None, *kind_of(_static_target, "an address", _STRING, none=True)]
FilePath = Annotated[str, *kind_of(_path_text, "the path of a file", _STRING)]
OptionalFilePath = Annotated[str | None, *kind_of(_path_text, "the path of a file", _STRING, none=True)]
