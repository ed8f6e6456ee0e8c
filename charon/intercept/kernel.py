"""The kernel's tables, by way of the program ``nft``. Nothing but the one table that is named is ever touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from charon.base.errors import StartError

_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_PATIENCE: Final = 10.0
"""Seconds that a call may take; it takes some milliseconds."""

_ABSENT: Final = "No such file or directory"
_NOT_PERMITTED: Final = "Operation not permitted"


def load(text: str) -> None:
    """Have ``text`` in force, all of it or nothing. Raises StartError."""
    problem = _nft(["-f", "-"], text)[1]
    if problem is not None:
        raise StartError(f"cannot put the rules of interception up: {problem}")


def listing(table: str) -> str | None:
    """What the kernel has of ``table``; None when there is no such table. Raises StartError."""
    text, problem = _nft(["list", "table", "inet", table])
    if problem is None:
        return text
    if _ABSENT in problem:
        return None
    raise StartError(f"cannot see the rules of interception: {problem}")


def remove(table: str) -> bool:
    """Take ``table`` away. Returns whether it was there. Raises StartError."""
    if listing(table) is None:
        return False
    problem = _nft(["-f", "-"], f"add table inet {table}\ndelete table inet {table}\n")[1]
    if problem is not None:
        raise StartError(f"cannot take the rules of interception away: {problem}")
    return True


def _nft(arguments: list[str], text: str = "") -> tuple[str, str | None]:
    """What ``nft`` says, and what is wrong, or None. Raises StartError when it is not installed."""
    program = shutil.which("nft", path=_PATH)
    if program is None:
        raise StartError("the program nft is not there, which interception needs; install the package nftables")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program with rules of our own
            [program, *arguments], input=text, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"nft: {error}"
    if done.returncode == 0:
        return done.stdout, None
    said = next((line for line in done.stderr.splitlines() if "Error:" in line or line.strip()), "it says nothing")
    if _NOT_PERMITTED in done.stderr:
        said = "not permitted; it takes root or CAP_NET_ADMIN"
    return "", said.partition("Error: ")[2] or said
