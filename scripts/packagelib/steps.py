"""What happens to the package in the machine, one thing after the other; each returns what it measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from time import monotonic
from typing import Any

from scripts.packagelib.load import Load
from scripts.packagelib.machine import CommandFailed, Machine, until
from scripts.packagelib.manual import Manual

READY_BAR = 1.5
RECOVERY_BAR = 2.0
INSTALLED_BAR = 60.0
EXPOSURE_BAR = 2.0
CONFIG = "/etc/charon/config.yaml"
EDITED = """\
# edited by the administrator
target_service_name: http-backend
registry_file: registry.yaml
# what else there is
{more}
"""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise CommandFailed(what)


class Steps:
    """``newer`` and ``refusing`` are later versions of the package, the last with no love for this configuration."""

    def __init__(self, machine: Machine, manual: Manual, repository: Repository) -> None:
        self.machine = machine
        self.manual = manual
        self.repository = repository
        self.run = machine.run

    # -- what is asked of the machine ---------------------------------------------------------------------------

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
        return self.run("journalctl -u charon --no-pager -o cat", seconds=30)

    def logged(self) -> int:
        """The access lines in all log files."""
        return int(self.run("cd /var/log/charon; zcat -f -- *.log* | grep -c '\"http_request\"' || true"))

    # -- the package's life -------------------------------------------------------------------------------------

    def install(self) -> str:
        began = monotonic()
        self.manual.play(self.machine, "Install with apt")
        took = monotonic() - began
        self.start_backend()
        until(self.answers, 10, "an answer through the service that the installation started")
        size = int(self.run("dpkg-query -W -f '${Installed-Size}' charon")) / 1024
        used = int(self.run("du -sk /opt/charon | cut -f1")) / 1024
        expect(size <= INSTALLED_BAR, f"{size:.1f} MB installed; at most {INSTALLED_BAR:g}")
        return f"{took:.1f} s; {size:.1f} MB installed ({used:.1f} MB in blocks of this disk)"

    def start(self) -> str:
        """With one worker, five times; the middle one counts."""
        self.configure("workers: 1")
        times = []
        for _ in range(5):
            self.run("systemctl stop charon")
            began = monotonic()
            self.run("systemctl start charon")
            times.append(monotonic() - began)
        middle = sorted(times)[2]
        expect(self.answers(), "no answer")
        self.manual.play(self.machine, "Start and stop", 0)
        self.manual.play(self.machine, "Start and stop", 3)
        expect(middle <= READY_BAR, f"{middle:.2f} s until ready; at most {READY_BAR:g}")
        return f"{middle:.2f} s until ready with one worker ({min(times):.2f} to {max(times):.2f})"

    def sandbox(self) -> str:
        said = self.run("systemd-analyze --no-pager security charon | tail -n 1")
        exposure = float(re.findall(r"[0-9]+\.[0-9]+", said)[0])
        expect(exposure <= EXPOSURE_BAR, said)
        secured = self.run(f"grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/{self.pid()}/status | tr -s '\\t\\n' '  '")
        expect("NoNewPrivs: 1" in secured and "Seccomp: 2" in secured, secured)
        return f"exposure {exposure} (at most {EXPOSURE_BAR:g}); {secured.strip()}"

    def reload(self) -> str:
        before = self.pid()
        self.configure("drain_timeout: 20s")
        self.manual.play(self.machine, "Configure and reload", 0)
        expect(self.status()["last_reload"]["ok"] is True, "not in force")
        self.manual.play(self.machine, "Configure and reload", 2)
        self.machine.write("/etc/charon/registry.yaml", "services: {http-backend: 'localhost:9091'}\n")
        expect(self.pid() == before and self.answers(), "another process, or no answer")
        return "in force, same process"

    def bad_reload(self) -> str:
        self.configure("drain_timout: 20s")
        expect(not self.machine.succeeds("systemctl reload charon"), "a configuration with a mistake was taken")
        words = self.manual.play(self.machine, "Configure and reload", 1)
        mistake = f"{CONFIG}:5: drain_timout: unknown key"
        expect(mistake in words, f"the journal does not say {mistake}")
        expect(self.answers(), "no answer")
        self.configure("drain_timeout: 20s")
        return f"refused: {mistake}; still serving"

    def rotate(self) -> str:
        self.configure("logging: {file: /var/log/charon/charon.log}")
        self.run("systemctl restart charon")
        self.manual.play(self.machine, "Logs", 0)
        before = self.logged()
        with Load(self.machine, seconds=6) as load:
            for moment in (1, 2.5, 4):
                load.at(moment)
                self.manual.play(self.machine, "Logs", 1)
        verdict = load.verdict()
        until(lambda: self.logged() - before >= load.total, 10, f"{load.total} lines in the log")
        files = self.run("ls /var/log/charon | wc -l").strip()
        expect(int(files) == 4, f"{files} files after three rotations")
        lines = self.logged() - before
        expect(lines == load.total, f"{lines} lines for {load.total} requests")
        return f"{verdict}; {load.total} lines in {files} files"

    def killed(self) -> str:
        before = self.pid()
        self.run(f"kill -KILL {before}")
        took = until(lambda: self.pid() not in (0, before) and self.answers(), 20, "serving again")
        expect(took <= RECOVERY_BAR, f"serving after {took:.2f} s; at most {RECOVERY_BAR:g}")
        return f"serving again after {took:.2f} s (at most {RECOVERY_BAR:g})"

    def restart(self) -> str:
        before = self.pid()
        with Load(self.machine, seconds=10) as load:
            for moment in (2, 6):
                load.at(moment)
                self.manual.play(self.machine, "Start and stop", 1)
        expect(self.pid() != before, "the same process")
        refused = [failure for failure in load.failures if "refused" in failure.lower()]
        expect(refused == [], f"{len(refused)} connections refused")
        return f"2 restarts: {load.verdict()}"

    def replace(self) -> str:
        before = self.pid()
        with Load(self.machine, seconds=8) as load:
            load.at(2)
            self.manual.play(self.machine, "Start and stop", 2)
        expect(self.pid() not in (0, before), "the same process")
        return load.verdict()

    def reboot(self) -> str:
        self.run("journalctl --rotate")
        self.machine.stop()
        took = self.machine.boot()
        self.start_backend()
        until(self.answers, 10, "an answer after the boot")
        return f"booted in {took:.1f} s, and answers"

    def certificates(self) -> str:
        self.manual.play(self.machine, "Certificates", 0)
        self.manual.play(self.machine, "Certificates", 1)
        loose = self.run("find /var/lib/charon -name '*.key*' -perm /077").strip()
        expect(loose == "", f"open to others: {loose}")
        return "made, shown and renewed as the user charon"

    def intercept(self) -> str:
        self.configure(
            "listeners:\n"
            "  - {name: web, address: ':8080'}\n"
            "  - {name: outbound, address: ':15001', protocol: auto, original_destination: true}\n"
            "intercept: {enabled: true, outbound: {listener: outbound, users: [daemon]}}"
        )
        try:
            self.manual.play(self.machine, "Transparent interception")
            expect("redirect" not in self.run("nft list ruleset"), "rules are left after the stop")
            self.run("systemctl start charon-intercept")
            expect("redirect" in self.run("nft list ruleset"), "no rules after the start")
            self.run("systemctl stop charon")
            expect("redirect" not in self.run("nft list ruleset"), "rules are left after Charon's end")
        finally:
            self.run("systemctl stop charon-intercept; rm -rf /etc/systemd/system/charon.service.d")
            self.run("systemctl daemon-reload")
            self.configure()
            self.run("systemctl restart charon")
        expect("redirect" not in self.run("nft list ruleset"), "rules are left")
        return "rules up, down, and gone with Charon"

    def upgrade(self) -> str:
        """To a version that the test has built, under load; what the administrator edited stays."""
        edited = self.machine.read(CONFIG)
        before = self.pid()
        self.repository.publish("newer")
        with Load(self.machine, seconds=25) as load:
            load.at(1)
            began = monotonic()
            said = self.manual.play(self.machine, "Upgrade", 0)
            took = monotonic() - began
            expect(load.running, f"the upgrade took {took:.0f} s, longer than the load")
        verdict = load.verdict()
        expect(self.pid() != before and self.status()["version"] == self.repository.newer, said)
        expect(self.machine.read(CONFIG) == edited, f"{CONFIG} was overwritten")
        expect(f"charon {self.repository.newer}" in said, said)
        return f"{took:.1f} s under load: {verdict}"

    def refused_upgrade(self) -> str:
        """The version after it refuses the configuration: the one before stays, and its workers stay its own."""
        self.configure("timeouts: {idle: 80s}")
        self.run("systemctl reload charon")
        before = self.pid()
        self.repository.publish("refusing")
        with Load(self.machine, seconds=15) as load:
            load.at(1)
            said = self.run("apt-get update -q && apt-get install -y --only-upgrade charon")
        verdict = load.verdict()
        expect(self.pid() == before and self.status()["version"] == self.repository.newer, "it does not run any more")
        mistake = f"{CONFIG}:5: timeouts.idle"
        expect(mistake in said, f"apt does not say {mistake}: {said}")
        worker = self.status()["workers"][0]["pid"]
        self.run(f"kill -KILL {worker}")
        until(lambda: self.status()["ready"] and self.status()["workers"][0]["pid"] != worker, 10, "another worker")
        worker = self.status()["workers"][0]["pid"]
        program = self.run(f"tr '\\0' ' ' < /proc/{worker}/cmdline")
        expect(f"/versions/{self.repository.newer}-" in program, f"the new worker is {program}")
        self.run("systemctl restart charon")
        expect(self.status()["version"] == self.repository.newer, "a restart took the version that refuses")
        self.configure()
        self.manual.play(self.machine, "Upgrade", 1)
        expect(self.status()["version"] == self.repository.refusing, "not activated when it accepts the configuration")
        return f"{self.repository.newer} stays, over a restart too, and apt says {mistake} (...); {verdict}"

    def roll_back(self) -> str:
        with Load(self.machine, seconds=15) as load:
            load.at(1)
            self.manual.play(self.machine, "Roll back")
        expect(self.status()["version"] == self.repository.first, "another version runs")
        return load.verdict()

    def debug(self) -> str:
        self.manual.play(self.machine, "When something is wrong")
        left = self.run("ls /opt/charon/versions").split()
        self.run("systemctl restart charon")
        kept = self.run("ls /opt/charon/versions").split()
        expect(len(kept) == 1, f"versions that nobody runs: {kept}")
        return f"{len(left)} versions before a restart, {len(kept)} after it"

    def remove(self) -> str:
        self.manual.play(self.machine, "Remove", 0)
        expect("edited by the administrator" in self.machine.read(CONFIG), "the configuration is gone")
        expect(not self.answers() and not self.machine.succeeds("pgrep -u charon"), "it still runs")
        self.run(f"test ! -e /opt/charon && test -e /var/lib/charon/certs && test -e {CONFIG}")
        return "stopped; configuration and certificates kept"

    def purge(self) -> str:
        self.manual.play(self.machine, "Remove", 1)
        self.run("rm -rf /etc/systemd/system/app.service.d")  # of the administrator
        found = self.run(
            "find / -xdev -name '*charon*' -not -path '/srv/*' -not -path '/proc/*' -not -path '/var/log/journal/*' "
            "-not -path '/usr/share/keyrings/*' -not -path '/etc/apt/*' -not -path '/var/lib/apt/*' "
            "-not -path '/var/cache/apt/*' -not -path '/var/lib/systemd/timers/*'"
        ).split()
        expect(found == [], f"left behind: {found}")
        expect(not self.machine.succeeds("getent passwd charon || getent group charon"), "the user is left behind")
        return "nothing is left"

    # -- rpm ----------------------------------------------------------------------------------------------------

    def rpm(self) -> str:
        self.manual.play(self.machine, "Install with rpm", 0)
        until(self.answers, 10, "an answer")
        self.configure("drain_timout: 20s")
        expect(not self.machine.succeeds("systemctl reload charon"), "a configuration with a mistake was taken")
        expect(f"{CONFIG}:5: drain_timout: unknown key" in self.journal(), "the journal does not say why")
        self.configure()
        before = self.pid()
        with Load(self.machine, seconds=20) as load:
            load.at(1)
            self.run(f"rpm --upgrade --nodeps /srv/rpm-newer/charon-{self.repository.newer}-1.*.rpm")
        verdict = load.verdict()
        expect(self.pid() != before and self.status()["version"] == self.repository.newer, "not upgraded")
        expect("edited by the administrator" in self.machine.read(CONFIG), f"{CONFIG} was overwritten")
        self.manual.play(self.machine, "Install with rpm", 1)
        expect(not self.answers() and not self.machine.succeeds("pgrep -u charon"), "it still runs")
        self.run(f"test -e {CONFIG}.rpmsave && test ! -e /opt/charon")
        return f"started, bad reload refused, upgraded ({verdict}), erased"


class Repository:
    """The packages that the machine is given, in /srv: versions ``first``, ``newer`` and ``refusing``."""

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


