"""Durations and sizes as people write them: ``250ms``, ``1h30m``, ``64KiB``, ``10MB``.

Durations are seconds (float), sizes are bytes (int). Every function raises :class:`ValueError` with a text that says
what is wrong and what is allowed; the text is meant for the user and quotes the value.
"""

from __future__ import annotations

import re
from typing import Final

DURATION_UNITS: Final = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_UNITS: Final = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}

LONGEST: Final = 365 * 86400.0
"""Longest duration that is accepted: beyond a year it is a mistake, and timers stay far from their limits."""
LARGEST: Final = 2**63 - 1
"""Largest size that is accepted."""

# At most 19 digits (2**63): more is a mistake in any unit, and conversion stays cheap.
NUMBER: Final = r"[0-9]{1,19}(?:\.[0-9]{1,19})?"
DURATION_PATTERN: Final = rf"^(?:{NUMBER}|(?:{NUMBER}(?:us|µs|ms|s|m|h|d))+)$"
SIZE_PATTERN: Final = rf"^{NUMBER} ?(?:[Bb]|[KkMmGgTt][Ii]?[Bb])?$"

_NUMBER = re.compile(NUMBER, re.ASCII)
_DURATION = re.compile(DURATION_PATTERN, re.ASCII)
_DURATION_PART = re.compile(rf"({NUMBER})(us|µs|ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(rf"({NUMBER}) ?([A-Za-z]*)", re.ASCII)

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")

_DURATION_ALLOWED = "write a number and a unit such as 250ms, 30s, 5m or 1h30m; a bare number is seconds"
_SIZE_ALLOWED = "write bytes, or a number and a unit such as 64KiB or 10MB"


def quoted(value: object) -> str:
    """``value`` as it may stand in a message: on one line, printable, not endless, without the password of a URL."""
    text = _PASSWORD.sub("***", value if isinstance(value, str) else str(value))
    if len(text) > 60:
        text = text[:57] + "..."
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text) + "'"


def parse_duration(value: str | int | float) -> float:
    """Seconds in ``value``. Raises ValueError for anything that is not a duration of at most a year."""
    if isinstance(value, bool):
        raise ValueError(f"{quoted(value)} is not a duration; {_DURATION_ALLOWED}")
    if isinstance(value, (int, float)):
        seconds = float(value) if abs(value) <= LONGEST else LONGEST * 2
    else:
        text = value.strip()
        if text.startswith("-"):
            raise ValueError(f"{quoted(value)} is negative; a duration is 0 or more")
        if not _DURATION.fullmatch(text):
            raise ValueError(f"{quoted(value)} is not a duration; {_DURATION_ALLOWED}")
        if _NUMBER.fullmatch(text):
            seconds = float(text)
        else:
            seconds = sum(float(number) * DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds != seconds:
        raise ValueError(f"{quoted(value)} is not a duration; {_DURATION_ALLOWED}")
    if seconds < 0:
        raise ValueError(f"{quoted(value)} is negative; a duration is 0 or more")
    if seconds > LONGEST:
        raise ValueError(f"{quoted(value)} is too long; at most 365d is allowed")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest usual way to write ``seconds`` (0 or more), to the microsecond: ``1h30m``, ``250ms``, ``0s``."""
    micros = round(seconds * 1_000_000)
    if micros == 0:
        return "0s"
    parts = []
    for unit, size in (("h", 3_600_000_000), ("m", 60_000_000)):
        count, micros = divmod(micros, size)
        if count:
            parts.append(f"{count}{unit}")
    if micros and micros % 1_000_000 == 0:
        parts.append(f"{micros // 1_000_000}s")
    elif micros and not parts and micros % 1000 == 0 and micros < 1_000_000:
        parts.append(f"{micros // 1000}ms")
    elif micros and not parts and micros < 1000:
        parts.append(f"{micros}us")
    elif micros:
        parts.append(f"{micros / 1_000_000:.6f}".rstrip("0") + "s")
    return "".join(parts)


def in_words(seconds: float) -> str:
    """A time for people, in the largest unit of which there are two or more: ``3 days``, ``47 hours``, ``1 second``."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    count = max(1, int(seconds))
    return f"{count} seconds" if count != 1 else "1 second"


def parse_size(value: str | int) -> int:
    """Bytes in ``value``. Raises ValueError for anything that is not a whole number of bytes, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{quoted(value)} is not a size; {_SIZE_ALLOWED}")
    if isinstance(value, int):
        size: int = value
    else:
        text = value.strip()
        if text.startswith("-"):
            raise ValueError(f"{quoted(value)} is negative; a size is 0 or more")
        match = _SIZE.fullmatch(text)
        unit = match.group(2).lower() if match else ""
        if not match or (unit and unit not in SIZE_UNITS):
            raise ValueError(f"{quoted(value)} is not a size; {_SIZE_ALLOWED}")
        size = _whole(match.group(1), SIZE_UNITS[unit] if unit else 1, value)
    if size < 0:
        raise ValueError(f"{quoted(value)} is negative; a size is 0 or more")
    if size > LARGEST:
        raise ValueError(f"{quoted(value)} is too large")
    return size


def _whole(number: str, factor: int, value: str) -> int:
    """``number`` times ``factor``, exactly; a fraction of a byte is refused."""
    whole, _, fraction = number.partition(".")
    scale: int = 10 ** len(fraction)
    size, rest = divmod(int(whole + fraction) * factor, scale)
    if rest:
        raise ValueError(f"{quoted(value)} is not a whole number of bytes; {_SIZE_ALLOWED}")
    return size


def format_size(size: int) -> str:
    """The shortest exact way to write ``size`` bytes (0 or more): ``64KiB``, ``10MB``, ``1500``."""
    if size:
        for unit in ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "KB"):
            factor = SIZE_UNITS[unit.lower()]
            if size % factor == 0:
                return f"{size // factor}{unit}"
    return str(size)
