"""Showing something anew each second: on a terminal in place of what was there, elsewhere one after the other."""

from __future__ import annotations

import os
import select
import shutil
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, TextIO

from charon.base.errors import StartError

PERIOD: Final = 1.0

_ALTERNATE, _BACK = "\033[?1049h\033[?25l", "\033[?25h\033[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\033[H", "\033[K", "\033[J"


def watch(look: Callable[[], list[str]], keys: TextIO, out: TextIO) -> None:
    """Show what ``look`` gives, once a second, until ``q`` is pressed or Ctrl-C.

    It goes on while nobody answers (StartError), and says so: the Charon that is looked at may be about to start.
    """
    if not out.isatty():
        while True:
            print(*_lines(look), "", sep="\n", file=out, flush=True)
            select.select([], [], [], PERIOD)
    with _screen(out), _single_keys(keys) as readable:
        while True:
            size = shutil.get_terminal_size()
            lines = _lines(look)
            if len(lines) >= size.lines:
                lines = [*lines[: size.lines - 2], f"... {len(lines) - size.lines + 2} more lines: charon status"]
            text = "".join(f"{_clip(line, size.columns)}{_REST_OF_LINE}\n" for line in lines)
            out.write(f"{_HOME}{text}{_REST_OF_SCREEN}")
            out.flush()
            if _asked_to_stop(readable):
                return


def _lines(look: Callable[[], list[str]]) -> list[str]:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    try:
        return [now, *look()]
    except StartError as error:
        return [now, str(error)]


def _asked_to_stop(keys: TextIO | None) -> bool:
    """Wait for the next look; True when ``q`` is pressed meanwhile."""
    readable, _, _ = select.select([keys] if keys is not None else [], [], [], PERIOD)
    return bool(readable) and os.read(readable[0].fileno(), 64).lower().startswith(b"q")


def _clip(line: str, columns: int) -> str:
    """At most ``columns`` characters that show; marks (ESC [ ... m) take no room."""
    shown = 0
    kept: list[str] = []
    for place, part in enumerate(line.split("\033[")):
        mark, text = part.split("m", 1) if place else ("", part)
        if place:
            kept.append(f"\033[{mark}m")
        kept.append(text[: columns - shown])
        shown += len(kept[-1])
    return "".join(kept)


@contextmanager
def _screen(out: TextIO) -> Iterator[None]:
    """The terminal's other screen, so that what was there before comes back."""
    out.write(_ALTERNATE)
    try:
        yield
    finally:
        out.write(_BACK)
        out.flush()


@contextmanager
def _single_keys(keys: TextIO) -> Iterator[TextIO | None]:
    """Keys as they are pressed, and not shown; None where nobody can press any."""
    if not keys.isatty():
        yield None
        return
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
