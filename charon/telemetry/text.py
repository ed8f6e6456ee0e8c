"""Making text from outside safe to show: in one JSON line, and on a terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

# Characters that JSON may carry as they are, but that end lines or command terminals: DEL, the C1 controls, the
# line and paragraph separators, the marks that turn the direction of text, and the byte order mark. As UTF-8.
_UNSAFE: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf")
_LIMITS: Final = (1000, 300, 100, 30)
_MAX_ITEMS: Final = 20
STACK: Final = "stack"
"""The field that holds a stack trace, of several lines."""

_PLAIN_VALUE: Final = re.compile(r"[!#-\[\]-~]+")
_CLIPPED: Final = "…"


def safe_json(encoded: bytes) -> bytes:
    """``encoded`` JSON, with what could end a line or command a terminal written as JSON escapes."""
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return _UNSAFE.sub(lambda match: b"\\u%04x" % ord(match[0].decode()), encoded)


def to_text(value: Any) -> str:
    """``value`` as text that UTF-8 can carry; bytes that are no UTF-8 show as ``\\xNN``."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, BaseException):
        value = f"{type(value).__name__}: {value}" if str(value) else type(value).__name__
    text = value if isinstance(value, str) else str(value)
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def clip(text: str, size: int) -> str:
    """At most ``size`` characters of ``text``, the last one a mark when some are missing."""
    return text if len(text) <= size else text[: size - 1] + _CLIPPED


def clip_front(text: str, size: int) -> str:
    """As :func:`clip`, but the end of ``text`` is what stays."""
    return text if len(text) <= size else _CLIPPED + text[len(text) - size + 1 :]


def printable(text: str) -> str:
    """``text`` with every character that does not simply show as itself written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def console_value(value: Any) -> str:
    """A value in a ``key=value`` line: bare when nothing in it can be mistaken, else quoted."""
    text = to_text(value)
    if _PLAIN_VALUE.fullmatch(text):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def bounded(value: Any, limit: int) -> Any:
    """``value`` as something that JSON can carry, no text in it longer than ``limit`` characters."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else clip(str(value), limit)
    if isinstance(value, (list, tuple, set, frozenset)) and limit > 1:
        return [bounded(item, limit // 4) for item in list(value)[:_MAX_ITEMS]]
    if isinstance(value, dict) and limit > 1:
        return {clip(to_text(key), limit): bounded(item, limit // 4) for key, item in list(value.items())[:_MAX_ITEMS]}
    return clip(to_text(value), limit)


def fit_json(fields: dict[str, Any], size: int) -> bytes:
    """``fields`` as one line of JSON of at most ``size`` bytes, with its line feed.

    Texts are shortened until it fits; then fields are left out from the end, and ``truncated`` says so.
    """
    return _fit(fields, size, lambda shown: safe_json(orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE)))


def fit_console(fields: dict[str, Any], size: int, encode: Callable[[dict[str, Any]], str]) -> bytes:
    """As :func:`fit_json`, with the line made by ``encode``."""
    return _fit(fields, size, lambda shown: encode(shown).encode())


def _fit(fields: dict[str, Any], size: int, encode: Callable[[dict[str, Any]], bytes]) -> bytes:
    for limit in _LIMITS:
        line = encode({key: _bounded_field(key, value, limit) for key, value in fields.items()})
        if len(line) <= size:
            return line
    kept = list(fields.items())
    while True:
        kept.pop()
        shown = {key: _bounded_field(key, value, _LIMITS[-1]) for key, value in kept}
        line = encode({**shown, "truncated": True})
        if len(line) <= size or not kept:
            return line


def _bounded_field(key: str, value: Any, limit: int) -> Any:
    if key == STACK and isinstance(value, str):  # its end says what happened
        return clip_front(to_text(value), limit * 5 // 2)
    return bounded(value, limit)


class Timestamps:
    """RFC 3339 in UTC with milliseconds; made once a millisecond, the part up to the second once a second."""

    __slots__ = ("_millisecond", "_prefix", "_second", "_text")

    def __init__(self) -> None:
        self._second = self._millisecond = -1
        self._prefix = self._text = ""

    def format(self, wall: float) -> str:
        """``wall``, in Unix seconds, as ``2024-05-01T12:00:00.123Z``."""
        millisecond = int(wall * 1000)
        if millisecond != self._millisecond:
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self._second = second
            self._text = self._prefix + _MILLISECONDS[rest]
            self._millisecond = millisecond
        return self._text


_MILLISECONDS: Final = tuple(f".{ms:03d}Z" for ms in range(1000))


def _escape(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
