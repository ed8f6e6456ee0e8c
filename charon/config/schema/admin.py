"""Where the program's own commands reach it."""

from __future__ import annotations

from charon.config.schema.section import Section, setting
from charon.config.schema.values import OptionalFilePath, OptionalListenAddress


class Admin(Section):
    """The admin API."""

    socket: OptionalFilePath = setting(
        "none",
        "Unix socket of the admin API. `none`: `/run/charon/admin.sock` where that folder can be written to, else "
        "`$XDG_RUNTIME_DIR/charon/admin.sock`, else `/tmp/charon-UID/admin.sock`.",
        live=False,
        example="/run/charon/admin.sock",
    )
    address: OptionalListenAddress = setting(
        "none",
        "TCP address of the admin API. `none`: no TCP.",
        live=False,
        example="127.0.0.1:9901",
    )
