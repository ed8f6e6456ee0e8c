"""What is logged, how, and where to."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, Choice, OptionalFilePath


class Logging(Section):
    """The log: one event a line."""

    level: Annotated[str, *Choice("debug", "info", "warning", "error", warn="warning")] = setting(
        "info", "Least severe events that are logged: `debug`, `info`, `warning` or `error`."
    )
    format: Annotated[str, *Choice("json", "console")] = setting(
        "json", "`json`: one object a line. `console`: for reading in a terminal.", live=False
    )
    environment: Annotated[str, *Choice("production", "development")] = setting(
        "production",
        "`development` adds where in the program an event was logged, and full tracebacks.",
        live=False,
    )
    file: OptionalFilePath = setting(
        "none",
        "File to append to. It is reopened on SIGUSR1 and when it was moved away. `none`: standard output.",
        live=False,
        example="/var/log/charon/charon.log",
    )
    access_log: Boolean = setting(True, "Log a line for each request and each TCP connection.")
