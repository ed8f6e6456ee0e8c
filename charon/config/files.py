"""Where the configuration is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from charon.base.errors import ConfigError

DEFAULT_FILES: Final = (Path("/etc/charon/config.yaml"), Path("config.yaml"))


def find_config(given: str | None) -> Path:
    """The file to read: the given one, else the first default that exists. Raises ConfigError when there is none."""
    if given is not None:
        return Path(given)
    for path in DEFAULT_FILES:
        if path.exists():
            return path
    raise ConfigError([f"neither {DEFAULT_FILES[0]} nor ./{DEFAULT_FILES[1]} exists; write --config FILE"])
