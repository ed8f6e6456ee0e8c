"""Who asks the admin API, and what they may do.

A Unix socket tells who is at its other end, and its owner and root may do everything. TCP tells nothing, so a token
must. A browser acts for whatever page it shows: one that reaches the Unix socket through ``ssh -L`` has all rights of
the user, and must not lend them to a stranger's page, nor to a name that a stranger makes point here.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

PEER: Final = "charon.peer"
"""The key of WSGI's environ that holds a :class:`Peer`."""

SHORTEST_TOKEN: Final = 16
_LONGEST_TOKEN_FILE: Final = 4096


class Rights(IntEnum):
    """What somebody may do, each including those before it."""

    NOTHING = 0
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a Unix socket; ``uid`` is None where that is not known: over TCP."""

    uid: int | None = None


class TokenProblem(Exception):
    """A token file cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the configuration allows. The files are None where there is no such token."""

    read_token_file: str | None = None
    write_token_file: str | None = None
    group_may_write: bool = False

    def check(self) -> None:
        """Raises TokenProblem when a token file cannot be used."""
        for path in (self.read_token_file, self.write_token_file):
            if path is not None:
                read_token(path)

    def rights(self, environ: Mapping[str, Any]) -> Rights:
        """What the sender of a request may do. Raises TokenProblem."""
        peer: Peer = environ[PEER]
        if peer.uid is None:
            return self._by_token(environ.get("HTTP_AUTHORIZATION", ""))
        owner = peer.uid in (0, os.geteuid())
        return Rights.WRITE if owner or self.group_may_write else Rights.READ  # the file's mode keeps others out

    def _by_token(self, field: str) -> Rights:
        scheme, _, token = field.partition(" ")
        if scheme.lower() != "bearer":
            return Rights.NOTHING
        given = token.strip().encode("latin-1")
        found = Rights.NOTHING
        for path, right in ((self.read_token_file, Rights.READ), (self.write_token_file, Rights.WRITE)):
            if path is not None and hmac.compare_digest(given, read_token(path)):
                found = right
        return found


def read_token(path: str) -> bytes:
    """The token in a file. Raises TokenProblem when it is not kept safe, or is not one."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LONGEST_TOKEN_FILE + 1)
    except OSError as error:
        raise TokenProblem(f"cannot read the token file {path}: {error.strerror or error}") from None
    if mode & stat.S_IRWXO:
        raise TokenProblem(f"the token file {path} is open to everybody; chmod o-rwx it, and make a new token")
    token = content.strip()
    if not SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN_FILE or not token.isascii() or len(token.split()) != 1:
        raise TokenProblem(
            f"the token file {path} does not hold a token: {SHORTEST_TOKEN} ASCII characters or more without spaces"
        )
    return token


def why_foreign(environ: Mapping[str, Any]) -> str | None:
    """Why a request seems to come from a page that is not ours; None when nothing says so.

    The Host must be one that no stranger can own: an address, localhost, or a name without a dot. Over TCP that would
    keep out nobody but users with a name for their machine, and there a token says who asks.
    """
    host = environ.get("HTTP_HOST", "")
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None and site not in ("same-origin", "none"):
        return "a page of another site asked for this"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin.partition("://")[2] != host:
        return "a page of another origin asked for this"
    peer: Peer = environ[PEER]
    if peer.uid is not None and not _is_ours(host):
        return "this Host is not answered here; ask for localhost"
    return None


def _is_ours(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if "." not in name and ":" not in name:
        return True
    if name.lower().endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
