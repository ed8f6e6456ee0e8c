"""A machine to install packages on: a Debian root, booted with systemd in a container without a network."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

PROJECT = Path(__file__).resolve().parents[2]
BOOT_SECONDS = 180.0
POLL = 0.05
FIRST = ("nice", "-n", "-5")
"""Before a command in the machine, or that is it: what is measured there is not to be what else this machine does."""
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


class CannotBoot(Exception):
    """systemd-nspawn cannot boot a root here."""


class CommandFailed(Exception):
    """A command in the machine went wrong; says which, and what it printed."""


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until ``condition`` holds. Returns how long that took. Raises CommandFailed after ``seconds``."""
    began = monotonic()
    while not condition():
        if monotonic() - began > seconds:
            raise CommandFailed(f"not within {seconds:g} s: {what}")
        sleep(POLL)
    return monotonic() - began


class Machine:
    """One root and what runs in it. ``tar`` holds the bare root."""

    def __init__(self, folder: Path, tar: Path) -> None:
        self.root = folder
        self._name = f"charon-{os.getpid()}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0
        folder.mkdir(parents=True)
        subprocess.run(["tar", "-C", folder, "-xf", tar], check=True)
        for sources in (folder / "etc/apt/sources.list", *(folder / "etc/apt/sources.list.d").glob("*")):
            sources.unlink(missing_ok=True)  # there is no network
        (folder / "etc/machine-id").write_text("")
        shutil.copytree(PROJECT / "scripts/faultlib", folder / "srv/load/scripts/faultlib")
        (folder / "srv/load/scripts/__init__.py").touch()
        # The load needs nothing of the rest of that package.
        (folder / "srv/load/scripts/faultlib/__init__.py").write_text("")

    def boot(self) -> float:
        """Start it, and wait until systemd has started everything. Returns the seconds. Raises CannotBoot."""
        log = self.root.with_suffix(".boot.log").open("wb")
        with log:
            self._nspawn = subprocess.Popen(
                [*FIRST, "systemd-nspawn", "--quiet", "--boot", "--private-network", "--register=no", "--keep-unit"]
                + ["--console=passive", f"--machine={self._name}", f"--directory={self.root}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            return until(self._up, BOOT_SECONDS, "the root has booted")
        except CommandFailed as error:
            self.stop()
            raise CannotBoot(f"{error}: {Path(log.name).read_text(errors='replace').strip()[-500:]}") from error

    def _up(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise CommandFailed(f"systemd-nspawn has ended with {self._nspawn.returncode}")
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not children:
            return False
        self._init = int(children[0])
        state = self.run("systemctl is-system-running", check=False, seconds=60).strip()
        return state in ("running", "degraded")

    def stop(self) -> None:
        """Shut it down as its own poweroff does; after two minutes by force."""
        if self._nspawn is None:
            return
        if self._init and self._nspawn.poll() is None:
            self.run("systemctl poweroff", check=False)
        try:
            self._nspawn.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn, self._init = None, 0

    def remove(self) -> None:
        self.stop()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root)
            self.root.with_suffix(".boot.log").unlink()

    def command(self, script: str) -> list[str]:
        """The command that runs a shell script in it, as root."""
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        inside = [*FIRST, "nsenter", "--target", str(self._init), "--all", "/usr/bin/env", "-i", *environment]
        return [*inside, "/bin/bash", "-e", "-o", "pipefail", "-c", script]

    def run(self, script: str, *, check: bool = True, seconds: float = 300) -> str:
        """Run a shell script, and return what it printed. Raises CommandFailed."""
        try:
            done = subprocess.run(
                self.command(script),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"{script}\n  not done in {seconds:g} s") from error
        if check and done.returncode != 0:
            raise CommandFailed(f"{script}\n  exit status {done.returncode}: {done.stdout[-1500:]}")
        return done.stdout

    def succeeds(self, script: str) -> bool:
        return subprocess.run(self.command(script), stdin=subprocess.DEVNULL, capture_output=True).returncode == 0

    def write(self, path: str, text: str) -> None:
        """Write a file in place, as an editor does that keeps it."""
        (self.root / path.lstrip("/")).write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text(encoding="utf-8")
