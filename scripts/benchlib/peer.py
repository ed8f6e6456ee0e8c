"""What a proxy is here: it writes its configuration for a setup and names the command that runs it."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.benchlib.procs import CORES, Child

ROOT = Path(__file__).resolve().parents[2]
MARK = 0x6368
"""On connections of peers that are not to be redirected; it is Charon's own."""

NEVER_REACHED = 1_000_000
"""Requests a second, a limit that costs its check and refuses nothing."""


@dataclass(frozen=True)
class Setup:
    """One listener before one backend, both on 127.0.0.1, with ``access_log``, a JSON line a request."""

    mode: str  # http, https, tcp or original-destination
    listen: int
    backend: int
    access_log: bool
    room: int  # as many connections must fit
    folder: Path
    bulk: bool = False  # large bodies: those whose buffers are small by default get larger ones

    @property
    def http(self) -> bool:
        return self.mode.startswith("http")

    @property
    def log(self) -> Path:
        return self.folder / "access.log"

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)


class Certificate:
    """The one that every peer shows, in the folder of the run, which is above that of the setup."""

    cert, key = "cert.pem", "key.pem"

    @classmethod
    def make(cls, folder: Path) -> None:
        (folder / cls.key).touch(0o600)
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        argv += ["-subj", "/CN=bench.test", "-days", "2", "-keyout", cls.key, "-out", cls.cert]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)

    @classmethod
    def of(cls, setup: Setup) -> tuple[str, str]:
        return str(setup.folder.parent / cls.cert), str(setup.folder.parent / cls.key)


class Peer:
    """``base`` names the peer that has less: what this one has over it is what that costs, or brings. ``access_log`` is
    None where the command line decides. ``settings`` says in a sentence what the configuration is like."""

    name = ""
    program = ""
    base = ""
    settings = ""
    workers = 1
    access_log: bool | None = None
    version_argv: tuple[str, ...] = ()
    stdout = "stdout"

    def command(self, setup: Setup) -> list[str]:
        raise NotImplementedError

    def start(self, setup: Setup) -> Child:
        return Child(self.name, self.command(setup), setup.folder, CORES[: self.workers], self.stdout)

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        return "" if shutil.which(self.program) else f"{self.program} is not installed"

    def version(self) -> str:
        ran = subprocess.run(self.version_argv, capture_output=True, text=True, timeout=20, check=False)
        found = re.search(r"\d+\.\d+[^\s/,]*", ran.stdout + ran.stderr)
        return found.group() if found else "?"
