"""How the answers of a program on this host come back to Charon, where the program sees the client as its peer.

Charon's connection goes from the client's address to a loopback address of this host, and the program answers from
there. The kernel refuses to send that anywhere else, so there is a rule of routing for such answers, by which they stay
on this host. The rule takes nothing from anybody, also where it is left over: it is for TCP from a loopback address to
an address that is not this host's, and from ports below those that clients have. Connections through a loopback
address are never mixed up with those that clients make themselves, which no client can make to such an address.

The program ``ip`` does it, for both families; IPv6 is left out where this host has none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from charon.base.errors import StartError
from charon.config.interception import HIGHEST_KEPT_PORT

_PREFERENCE: Final = "100"
_SOURCES: Final = {"-4": "127.0.0.0/8", "-6": "::1"}
_NO_IPV6: Final = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
_PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_PATIENCE: Final = 10.0


def put(table: int) -> None:
    """Have answers come back by the routing table ``table``, also where they do already. Raises StartError."""
    for family in _families():
        _do(family, "route", "replace", *_route(table))
        if not _has_rule(family, table):
            _do(family, "rule", "add", *_rule(family, table))


def remove(table: int) -> bool:
    """Take away what :func:`put` has put there. Returns whether there was anything. Raises StartError."""
    if _program() is None:
        return False
    found = False
    for family in _families():
        if _has_rule(family, table):
            found = True
            _do(family, "rule", "del", *_rule(family, table))
        if _has_route(family, table):
            found = True
            _do(family, "route", "del", *_route(table))
    return found


def difference(table: int) -> str | None:
    """What is missing; None when nothing is. Raises StartError."""
    for family in _families():
        if not _has_rule(family, table):
            return f"the rule of routing for answers is not there (ip {family} rule)"
        if not _has_route(family, table):
            return f"the route for answers is not there (ip {family} route)"
    return None


def text(table: int) -> str:
    """What :func:`put` does, as comments for people."""
    lines = (
        f"# ip {family} {line}\n"
        for family in _families()
        for line in (
            " ".join(("route", "replace", *_route(table))),
            " ".join(("rule", "add", *_rule(family, table))),
        )
    )
    return "".join(lines)


def left_over(table: int) -> bool:
    """Whether there is a rule for ``table``. Raises StartError."""
    return _program() is not None and any(_has_rule(family, table) for family in _families())


def check() -> None:
    """Raises StartError where the program ``ip`` is not there, or may not see what there is."""
    for family in _families():
        _do(family, "rule", "list")


def _program() -> str | None:
    return shutil.which("ip", path=_PATH)


def _families() -> tuple[str, ...]:
    off = not _NO_IPV6.exists() or _NO_IPV6.read_text().strip() != "0"
    return ("-4",) if off else ("-4", "-6")


def _rule(family: str, table: int) -> list[str]:
    chosen = f"from {_SOURCES[family]} iif lo ipproto tcp sport 1-{HIGHEST_KEPT_PORT} lookup {table}"
    return ["pref", _PREFERENCE, *chosen.split()]


def _route(table: int) -> list[str]:
    return f"local default dev lo table {table}".split()


def _has_rule(family: str, table: int) -> bool:
    wanted = {f"{_PREFERENCE}:", _SOURCES[family], f"1-{HIGHEST_KEPT_PORT}", str(table)}
    return any(wanted <= set(line.split()) for line in _do(family, "rule", "list").splitlines())


def _has_route(family: str, table: int) -> bool:
    # All of them: of a table that is not there, the kernel says that there is none, as if that were a mistake.
    listed = _do(family, "route", "list", "table", "all", "type", "local").splitlines()
    wanted = {"default", "lo", str(table)}
    return any(wanted <= set(line.split()) for line in listed)


def _do(*arguments: str) -> str:
    program = _program()
    if program is None:
        raise StartError("the program ip is not there, which keep_client_address needs; install the package iproute2")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program with arguments of our own
            [program, *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"ip {' '.join(arguments)}: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it says nothing"]
        raise StartError(f"ip {' '.join(arguments)}: {said[0]}")
    return done.stdout
