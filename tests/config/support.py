"""What the tests of the configuration share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from charon.config.load import Config, load_config, read_config


class Folder:
    """A folder with a config.yaml in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "config.yaml"

    def load(self, text: str, environ: Mapping[str, str] | None = None) -> Config:
        self.file.write_text(text, encoding="utf-8")
        return load_config(self.file, environ or {})

    def problems(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
        """The mistakes in ``text``, without the name of the file: ``LINE: key: text``."""
        self.file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        found = read_config(self.file, environ or {}).problems
        assert all(problem.startswith(f"{self.file}:") and problem.isprintable() for problem in found)
        return [problem.removeprefix(f"{self.file}:") for problem in found]
