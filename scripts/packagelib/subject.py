"""What all steps have: the machine, the documents whose commands they run, and questions to the Charon in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.packagelib.machine import CommandFailed, Machine, until
from scripts.packagelib.manual import Manual

CONFIG = "/etc/charon/config.yaml"
EDITED = """\
# edited by the administrator
target_service_name: http-backend
registry_file: registry.yaml
# what else there is
{more}
"""
PATIENCE = 60.0
"""Seconds that a busy machine may take for what takes one."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise CommandFailed(what)


class Repository:
    """The packages that the machine is given, in /srv: versions ``first``, ``newer`` and ``refusing``. The last has no
    love for a configuration of these steps."""

    def __init__(self, machine: Machine, packages: dict[str, Path], publish: Any) -> None:
        self._packages = packages
        self._publish = publish
        self._machine = machine
        self.first, self.newer, self.refusing = (_version(packages[name]) for name in ("first", "newer", "refusing"))
        self.publish("first")

    def publish(self, name: str) -> None:
        """Put a version into the repository."""
        self._publish(self._machine.root / "srv/charon", self._packages[name])


def _version(package: Path) -> str:
    return package.name.split("_")[1]


class Subject:
    """The package in the machine."""

    def __init__(self, machine: Machine, manual: Manual, readme: Manual, repository: Repository) -> None:
        self.machine = machine
        self.manual = manual
        self.readme = readme
        self.repository = repository
        self.run = machine.run

    def pid(self) -> int:
        return int(self.run("systemctl show -p MainPID --value charon"))

    def status(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.run("charon status --json"))
        return state

    def answers(self) -> bool:
        return self.machine.succeeds("curl -sf --max-time 2 http://localhost:8080/hello | grep -q ^backend:")

    def configure(self, more: str = "") -> None:
        self.machine.write(CONFIG, EDITED.format(more=more))

    def start_backend(self) -> None:
        program = "/srv/backend/bin/python -m charon.testing.http_backend --addr :9091"
        self.run(f"systemd-run --quiet --unit=backend {program}")

    def journal(self) -> str:
        return self.run("journalctl -u charon --no-pager -o cat")

    def logged(self) -> int:
        """The access lines in all log files."""
        return int(self.run("cd /var/log/charon; zcat -f -- *.log* | grep -c '\"http_request\"' || true"))

    def crash(self) -> float:
        """Kill the main process; returns the seconds until another one serves."""
        before = self.pid()
        self.run(f"systemctl reset-failed charon; kill -KILL {before}")
        return until(lambda: self.pid() not in (0, before) and self.answers(), PATIENCE, "serving again")
