"""YAML text as plain values, with the line of everything and every mistake that can be seen without a schema.

Scalars stay text: what a value is (a port, a switch, a name) is for the schema to say, so that a service called
``no``, ``on`` or ``1e3`` is a service, and ``80:80`` is never a number in base 60. Values are built from parser events,
not from PyYAML's nodes: the composer of libyaml's binding overruns the C stack when a file nests deeply.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from charon.base.errors import ConfigError
from charon.config.problems import Problem, ProblemAt, key_path, render

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
KeyPath = tuple[str | int, ...]
Expand = Callable[[str], str]

DEEPEST: Final = 32
"""How many blocks may stand inside each other; the schema needs far fewer."""
LARGEST_FILE: Final = 64 * 1024 * 1024
"""Bytes; a registry of 50,000 services has about 3 MB."""

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_STR_TAG: Final = "tag:yaml.org,2002:str"
# What YAML 1.1 section 5.1 does not let a file contain.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Document:
    """One file: ``value``, the line of each key and item (from 1), and the mistakes found so far.

    ``broken`` holds the paths whose value could not be read at all, so that nothing is concluded from its absence.
    """

    value: Value
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[KeyPath] = field(default_factory=set)

    def line(self, path: KeyPath) -> int:
        """The line of ``path``, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def add(self, path: KeyPath, text: str) -> None:
        """Report that ``text`` is wrong at ``path``."""
        self.problems.append(Problem(self.line(path), key_path(path), text))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises ConfigError with one line for anything that stands in the way."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError([f"{path}: this is not an ordinary file"])
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: this is a folder, not a file"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: the file cannot be read: {error.strerror or error}"]) from None
    except ValueError:
        raise ConfigError([f"{str(path)!r}: this cannot be the name of a file"]) from None
    if len(data) > LARGEST_FILE:
        raise ConfigError([f"{path}: the file is larger than {LARGEST_FILE // 1024**2} MiB"])
    return decode(data, str(path))


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe at once as well, so that it can be refused."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def decode(data: bytes, source: str) -> str:
    """``data`` as text. Raises ConfigError when it is not UTF-8 (a byte order mark is allowed)."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError([f"{source}:1: the file is UTF-16; only UTF-8 is read"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{source}:{line}: the file is not UTF-8: byte 0x{data[error.start]:02x}"]) from None


def parse(text: str, source: str, expand: Expand | None = None) -> Document:
    """Read ``text``. ``expand`` is applied to every scalar value and may raise ValueError.

    Raises ConfigError with one line when the text is not YAML; everything milder is in the document's ``problems``.
    """
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        raise ConfigError([f"{source}:{line}: the control character U+{ord(unprintable.group()):04X} is not allowed"])
    try:
        return _Reader(text, expand).document()
    except ProblemAt as problem:
        raise ConfigError(render(source, [problem.problem])) from None
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_error(error, text, source)]) from None


def _syntax_error(error: yaml.YAMLError, text: str, source: str) -> str:
    rows = text.split("\n")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    start = getattr(error, "context_mark", None)
    line = min(mark.line + 1 if mark else 1, len(rows))
    what = getattr(error, "problem", None) or "this is not YAML"
    row = rows[line - 1]
    if "\t" in row[: len(row) - len(row.lstrip())]:
        what = "a tab stands in the indentation; only spaces are allowed there"
    elif "cannot start any token" in what and mark and mark.column < len(row):
        what = f"no value can start with {row[mark.column]!r}; put the value in quotes"
    elif "mapping values are not allowed" in what:
        what = "a ':' is not expected here; check the indentation, or put the value in quotes"
    elif start is not None and start.line + 1 < line:
        what = f"{what} (in what begins on line {start.line + 1})"
    return f"{source}:{line}: not valid YAML: {what}"


class _Reader:
    """Builds values from the parser's events."""

    def __init__(self, text: str, expand: Expand | None) -> None:
        self._next: Callable[[], Any] = _LOADER(text).get_event
        self._expand = expand
        self._anchors: dict[str, Value] = {}
        self._found = Document(None)
        self._lines = self._found.lines

    def document(self) -> Document:
        """The only document of the stream."""
        self._next()
        start = self._next()
        if not isinstance(start, yaml.DocumentStartEvent):
            return self._found
        self._found.value = self._value(self._next(), (), 0)
        self._next()
        after = self._next()
        if isinstance(after, yaml.DocumentStartEvent):
            raise ProblemAt(Problem(_line(after), "", "a second YAML document; a file holds one"))
        return self._found

    def _value(self, event: Any, path: KeyPath, depth: int) -> Value:
        kind = type(event)
        value: Value
        if kind is yaml.ScalarEvent:
            value = self._scalar(event, path)
        elif kind is yaml.AliasEvent:
            if event.anchor not in self._anchors:
                text = f"there is no anchor &{event.anchor} before this"
                raise ProblemAt(Problem(_line(event), key_path(path), text))
            return self._anchors[event.anchor]
        else:
            if depth >= DEEPEST:
                raise ProblemAt(Problem(_line(event), key_path(path[:3]), f"more than {DEEPEST} blocks in each other"))
            self._refuse_tag(event, path)
            mapping = kind is yaml.MappingStartEvent
            value = self._mapping(path, depth + 1) if mapping else self._sequence(path, depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _scalar(self, event: Any, path: KeyPath) -> str | None:
        text: str = event.value
        if event.tag != _STR_TAG:
            self._refuse_tag(event, path)
        if self._expand is not None and "$" in text:
            try:
                text = self._expand(text)
            except ValueError as error:
                self._found.problems.append(Problem(_line(event), key_path(path), str(error)))
                self._found.broken.add(path)
                return None
        if event.implicit[0] and text in _NULLS:
            return None
        return text

    def _sequence(self, path: KeyPath, depth: int) -> list[Value]:
        items: list[Value] = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            here = (*path, len(items))
            self._lines[here] = _line(event)
            items.append(self._value(event, here, depth))
        return items

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        merged: list[Value] = []
        while type(event := self._next()) is not yaml.MappingEndEvent:
            if type(event) is not yaml.ScalarEvent:
                if type(event) is not yaml.AliasEvent:
                    self._value(event, path, depth)
                self._found.problems.append(Problem(_line(event), key_path(path), "a key must be plain text"))
                self._value(self._next(), path, depth)
                continue
            key: str = event.value
            here = (*path, key)
            if key == "<<" and event.implicit[0]:
                merged.append(self._value(self._next(), here, depth))
            elif key in values:
                text = f"given twice; it is first given on line {self._lines[here]}"
                self._found.problems.append(Problem(_line(event), key_path(here), text))
                self._value(self._next(), (*path, key, "again"), depth)
            else:
                self._lines[here] = _line(event)
                values[key] = None
                values[key] = self._value(self._next(), here, depth)
        for other in merged:
            self._merge(values, other, path)
        return values

    def _merge(self, values: dict[str, Value], other: Value, path: KeyPath) -> None:
        """YAML 1.1's ``<<``: keys of ``other`` that are not given here."""
        for block in other if isinstance(other, list) else [other]:
            if isinstance(block, dict):
                for key, value in block.items():
                    values.setdefault(key, value)
            else:
                self._found.add((*path, "<<"), "only a block of keys can be merged")

    def _refuse_tag(self, event: Any, path: KeyPath) -> None:
        if event.tag is not None:
            text = "YAML tags (a word that begins with '!') are not used; put the value in quotes if it is text"
            self._found.problems.append(Problem(_line(event), key_path(path), text))


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
