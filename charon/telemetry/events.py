"""The event log: what happens to Charon itself, through stdlib logging and python-json-logger.

A line is ``timestamp``, ``level``, ``message`` (the event's name), the fields of the process, the fields of the event.
Field values may hold what a peer sent: they are bounded, and nothing in them can end a line, make a field or command
a terminal. ``logging.environment`` decides how much is said: ``production`` adds a stack trace where an exception
caused the event; ``development`` also shows where each event was logged (``caller``), and a stack trace with every
warning and error. The format is chosen apart from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final

from pythonjsonlogger.core import LogData
from pythonjsonlogger.orjson import OrjsonFormatter

from charon.base.names import Event
from charon.telemetry.sink import MAX_LINE, LogSink
from charon.telemetry.text import STACK, Timestamps, console_value, fit_console, fit_json, printable

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_HEAD: Final = ("timestamp", "level", "message")
_COLOURS: Final = {"debug": "\x1b[36m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_COLUMNS: Final = ("status", "method", "latency_ms", "path")
_COLOUR_END: Final = "\x1b[0m"


def level_number(level: str) -> int:
    """The number of ``level``, a key of ``LEVELS``. ValueError for any other word."""
    try:
        return LEVELS[level]
    except KeyError:
        raise ValueError(f"unknown log level {level!r}; known are {', '.join(LEVELS)}") from None


def use_colours(sink: LogSink) -> bool:
    """Only for a terminal, and not where the user has set ``NO_COLOR``."""
    return sink.is_terminal and not os.environ.get("NO_COLOR")


def console_line(fields: dict[str, Any], colours: bool) -> str:
    """One event for people: time, level and name in columns, then ``key=value``; a stack follows, indented.

    Of a request, status, method, duration and path stand in columns too.
    """
    level = str(fields.get("level", ""))
    shown = _coloured(f"{level.upper():<7}", _COLOURS.get(level, ""), colours)
    name = printable(str(fields.get("message", "")))
    parts = [f"{fields.get('timestamp', '')} {shown} {name:<24}"]
    told: tuple[str, ...] = (*_HEAD, STACK)
    if name == Event.HTTP_REQUEST:
        parts.append(_request_columns(fields, colours))
        told += _COLUMNS
    parts += [f"{key}={console_value(value)}" for key, value in fields.items() if key not in told]
    stack = fields.get(STACK)
    lines = [" ".join(parts).rstrip()]
    if isinstance(stack, str):
        lines += ["    " + printable(line) for line in stack.splitlines()]
    return "\n".join(lines) + "\n"


def _request_columns(fields: dict[str, Any], colours: bool) -> str:
    status, method, milliseconds, path = (fields.get(key, "") for key in _COLUMNS)
    code = status if isinstance(status, int) else 0
    level = "error" if code >= 500 else "warning" if code >= 400 else "info"
    took = f"{milliseconds:.1f}" if isinstance(milliseconds, int | float) else ""
    shown = _coloured(f"{console_value(status):>3}", _COLOURS[level], colours)
    return f"{shown} {console_value(method):<7} {took:>8} ms {console_value(path)}"


def _coloured(text: str, colour: str, colours: bool) -> str:
    return f"{colour}{text}{_COLOUR_END}" if colours else text


class EventLog:
    """Where a process tells what happens.

    ``level`` is the least level that is written, ``fmt`` is ``json`` or ``console``, ``environment`` is
    ``production`` or ``development``; ``process_fields`` stand in every line. ValueError for other words.
    """

    def __init__(
        self,
        sink: LogSink,
        level: str = "info",
        fmt: str = "json",
        environment: str = "production",
        **process_fields: Any,
    ) -> None:
        if environment not in ("production", "development"):
            raise ValueError(f"unknown logging environment {environment!r}")
        self._sink = sink
        self._development = environment == "development"
        self._process_fields = process_fields
        self._handler = _SinkHandler(sink, _formatter(sink, fmt, process_fields, self._development))
        self._logger = logging.Logger("charon", level_number(level))
        self._logger.addHandler(self._handler)

    @property
    def level(self) -> str:
        return logging.getLevelName(self._logger.level).lower()

    def set_level(self, level: str) -> None:
        """Write events of ``level`` and above from now on."""
        self._logger.setLevel(level_number(level))

    def event(self, level: str, name: str, /, *, exc: BaseException | None = None, **fields: Any) -> None:
        """Write the event ``name`` (of :class:`charon.base.names.Event`); ``exc`` adds ``error`` and ``stack``."""
        self._log(level_number(level), name, exc, fields)

    def debug(self, name: str, /, *, exc: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.DEBUG, name, exc, fields)

    def info(self, name: str, /, *, exc: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.INFO, name, exc, fields)

    def warning(self, name: str, /, *, exc: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.WARNING, name, exc, fields)

    def error(self, name: str, /, *, exc: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.ERROR, name, exc, fields)

    def watch(self, look: Callable[[dict[str, Any]], None]) -> None:
        """Have ``look`` called with the fields of every warning and error that is written."""
        self._logger.addHandler(_Watcher(look, _Fields(self._process_fields, self._development)))

    def capture_libraries(self) -> None:
        """What libraries log or warn of, from warnings up, becomes ``library_log`` events of this log."""
        root = logging.getLogger()
        root.handlers[:] = [self._handler]
        root.setLevel(logging.WARNING)
        logging.captureWarnings(True)

    def _log(self, number: int, name: str, exc: BaseException | None, fields: dict[str, Any]) -> None:
        if number < self._logger.level:
            return
        self._logger.log(
            number,
            name,
            exc_info=exc,
            stack_info=self._development and exc is None and number >= logging.WARNING,
            stacklevel=3,  # the caller of event(), info(), ...
            extra={"fields": fields},
        )


class _SinkHandler(logging.Handler):
    """Lines of the formatter, as bytes, into the sink."""

    def __init__(self, sink: LogSink, formatter: logging.Formatter) -> None:
        super().__init__()
        self._sink = sink
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self._sink.write(self.format(record).encode())


class _Watcher(logging.Handler):
    """The fields of warnings and errors, to somebody who looks on."""

    def __init__(self, look: Callable[[dict[str, Any]], None], fields: _Fields) -> None:
        super().__init__(logging.WARNING)
        self._look = look
        self._fields = fields

    def emit(self, record: logging.LogRecord) -> None:
        fields = self._fields.of(record)
        fields.pop(STACK, None)
        self._look(fields)


def _formatter(sink: LogSink, fmt: str, process_fields: dict[str, Any], caller: bool) -> logging.Formatter:
    if fmt == "json":
        return _JsonFormatter(_Fields(process_fields, caller))
    if fmt == "console":
        return _ConsoleFormatter(_Fields(process_fields, caller), use_colours(sink))
    raise ValueError(f"unknown log format {fmt!r}; known are json, console")


class _Fields:
    """The fields of a record, in order, as the caller gave them."""

    def __init__(self, process_fields: dict[str, Any], caller: bool) -> None:
        self._process_fields = process_fields
        self._caller = caller
        self._timestamps = Timestamps()
        self._traces = logging.Formatter()

    def of(self, record: logging.LogRecord) -> dict[str, Any]:
        own: dict[str, Any] | None = getattr(record, "fields", None)
        fields: dict[str, Any] = {
            "timestamp": self._timestamps.format(record.created),
            "level": record.levelname.lower() if record.levelno <= logging.ERROR else "error",
            "message": record.msg if own is not None else Event.LIBRARY_LOG,
        }
        if own is None:
            own = {"logger": record.name, "text": record.getMessage()}
        if self._caller:
            fields["caller"] = f"{record.filename}:{record.lineno}"
        for key, value in {**self._process_fields, **own}.items():
            fields[key + "_" if key in _HEAD else key] = value
        if record.exc_info and record.exc_info[1] is not None:
            fields.setdefault("error", record.exc_info[1])
            fields[STACK] = self._traces.formatException(record.exc_info)
        elif record.stack_info:
            fields[STACK] = record.stack_info
        return fields


class _JsonFormatter(OrjsonFormatter):
    def __init__(self, fields: _Fields) -> None:
        super().__init__()
        self._fields = fields

    def add_fields(self, log_data: LogData, record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data.update(self._fields.of(record))

    def jsonify_log_record(self, log_data: LogData) -> str:
        return fit_json(log_data, MAX_LINE).decode()


class _ConsoleFormatter(logging.Formatter):
    def __init__(self, fields: _Fields, colours: bool) -> None:
        super().__init__()
        self._fields = fields
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields.of(record)
        return fit_console(fields, MAX_LINE, lambda shown: console_line(shown, self._colours)).decode()
