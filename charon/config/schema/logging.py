"""What is logged, how, and where to."""

from __future__ import annotations

from typing import Annotated

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean, Choice, Number, OptionalFilePath, UrlPath


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
    sample: Annotated[float, *Number(0, 1)] = setting(
        1,
        "Share of those lines that is written, by chance: `0.01` is one of a hundred. What did not go well (a status "
        "of 500 or above, or a `reason`) is always logged.",
        example=0.01,
    )
    exclude_paths: tuple[UrlPath, ...] = setting(
        (),
        "Path prefixes, in whole segments, of requests that get no such line, unless they did not go well.",
        example=["/healthz"],
    )
