"""Where the admin socket is. Found without the schema, and from a configuration that has mistakes elsewhere: the
commands that talk to a running Charon must reach it then too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from charon.base.errors import ConfigError
from charon.config.document import parse, read_text
from charon.config.expand import expander
from charon.config.files import DEFAULT_FILES

SYSTEM_SOCKET: Final = Path("/run/charon/admin.sock")


def default_admin_socket(environ: Mapping[str, str]) -> Path:
    """``/run/charon/admin.sock`` where this user can make it, else a path that belongs to the user."""
    for folder in (SYSTEM_SOCKET.parent, SYSTEM_SOCKET.parent.parent):
        if folder.is_dir():
            if os.access(folder, os.W_OK | os.X_OK):
                return SYSTEM_SOCKET
            break
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime) / "charon" / "admin.sock"
    return Path(f"/tmp/charon-{os.getuid()}/admin.sock")  # noqa: S108 (whoever makes the folder checks its owner)


def running_admin_socket(given: str | None, environ: Mapping[str, str]) -> Path:
    """The socket of the Charon that runs with the configuration ``given`` (None: the default one).

    Raises ConfigError when the configuration names a socket in a way that cannot be read.
    """
    file = Path(given) if given is not None else next((path for path in DEFAULT_FILES if path.exists()), None)
    named = None if file is None else _named(file, environ)
    if named is not None:
        return named
    # A member of its group may use the system's socket without being able to make it.
    return SYSTEM_SOCKET if SYSTEM_SOCKET.exists() else default_admin_socket(environ)


def _named(file: Path, environ: Mapping[str, str]) -> Path | None:
    try:
        document = parse(read_text(file), str(file), expander(environ))
    except ConfigError as error:
        problem = f"{error.problems[0]} (to reach Charon all the same, write --socket PATH)"
        raise ConfigError([problem]) from None
    value = document.value
    admin = value.get("admin") if isinstance(value, dict) else None
    socket = admin.get("socket") if isinstance(admin, dict) else None
    return file.absolute().parent / socket if isinstance(socket, str) and socket.lower() != "none" else None
