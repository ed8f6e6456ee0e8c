"""Where the program's own commands reach it."""

from __future__ import annotations

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, OptionalFilePath, OptionalListenAddress


class Admin(Section):
    """The admin API and the dashboard. Whoever may open the Unix socket may read; its owner and root may also act."""

    socket: OptionalFilePath = setting(
        "none",
        "Unix socket of the admin API. `none`: `/run/charon/admin.sock` where that folder can be written to, else "
        "`$XDG_RUNTIME_DIR/charon/admin.sock`, else `/tmp/charon-UID/admin.sock`.",
        live=False,
        example="/run/charon/admin.sock",
    )
    address: OptionalListenAddress = setting(
        "none",
        "TCP address of the admin API besides the Unix socket. `none`: no TCP. It speaks plain HTTP and wants a token "
        "(below); without one it answers only `/livez` and `/readyz`.",
        live=False,
        example="127.0.0.1:9901",
    )
    read_token_file: OptionalFilePath = setting(
        "none",
        "File whose content is the token that may read over TCP (`Authorization: Bearer TOKEN`): 16 characters or "
        "more, in a file that only its owner and group can read. It is read at each use, so that it can be replaced. "
        "`none`: only the token that may act.",
        live=False,
        example="/etc/charon/read-token",
    )
    write_token_file: OptionalFilePath = setting(
        "none",
        "The same for the token that may also act over TCP: reload, drain, set the log level. `none`: nobody may.",
        live=False,
        example="/etc/charon/write-token",
    )
    group_may_write: Boolean = setting(
        False, "Whether members of the Unix socket's group may act too, not only read.", live=False
    )
