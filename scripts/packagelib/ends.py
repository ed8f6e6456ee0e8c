"""How Charon leaves a machine, and the other ways onto one: from a file, from a clone, with rpm."""

from __future__ import annotations

from scripts.packagelib.load import Load
from scripts.packagelib.machine import until
from scripts.packagelib.subject import CONFIG, PATIENCE, Subject, expect

LEFT_BEHIND = (
    "find / -xdev -name '*charon*' -not -path '/srv/*' -not -path '/proc/*' "
    "-not -path '/var/log/journal/*' -not -path '/usr/share/keyrings/*' -not -path '/etc/apt/*' "
    "-not -path '/var/lib/apt/*' -not -path '/var/cache/apt/*' -not -path '/var/lib/systemd/timers/*'"
)


class Ends(Subject):
    def remove(self) -> str:
        self.manual.play(self.machine, "Remove", 0)
        expect("edited by the administrator" in self.machine.read(CONFIG), "the configuration is gone")
        expect(not self.answers() and not self.machine.succeeds("pgrep -u charon"), "it still runs")
        self.run(f"test ! -e /opt/charon && test -e /var/lib/charon/certs && test -e {CONFIG}")
        return "stopped; configuration and certificates kept"

    def purge(self) -> str:
        self.manual.play(self.machine, "Remove", 1)
        self._nothing_left()
        return "nothing is left"

    def _nothing_left(self) -> None:
        found = self.run(LEFT_BEHIND).split()
        expect(found == [], f"left behind: {found}")
        expect(not self.machine.succeeds("getent passwd charon || getent group charon"), "the user is left behind")

    def from_file(self) -> str:
        """The packages as README.md has them installed."""
        build, apt, dnf, status = (
            line.split("  #")[0].strip() for line in self.readme.block("Install").strip().splitlines()
        )
        self.readme.elsewhere("systemctl reload charon")
        expect(build == "packaging/build" and dnf.startswith("dnf install "), "README.md has other commands")
        self.run(f"cd /srv/clone && {apt}")
        until(self.answers, PATIENCE, "an answer")
        self.run(status)
        self.run("apt-get purge -y charon")
        self._nothing_left()
        return apt

    def from_clone(self) -> str:
        """An environment from a clone, and the unit with it."""
        indexes = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels; cd /srv/clone"
        self.run(f"{indexes}; {self.readme.block('Install', 1)}", seconds=600)
        self.run(f"{indexes}; {self.manual.block('Install from a clone')}")
        until(self.answers, PATIENCE, "an answer")
        self.run("charon status --ready")
        self.manual.play(self.machine, "Install from a clone", 1)
        expect(not self.answers() and not self.machine.succeeds("pgrep -u charon"), "it still runs")
        self._nothing_left()
        return "started as a service, and removed"

    def rpm(self) -> str:
        # Debian has no rpm to tell dnf which Python there is.
        self.manual.elsewhere("dnf install ./charon-*.rpm")
        self.manual.play(self.machine, "Install with rpm", 0)
        until(self.answers, PATIENCE, "an answer")
        self.configure("drain_timout: 20s")
        expect(not self.machine.succeeds("systemctl reload charon"), "a configuration with a mistake was taken")
        expect(f"{CONFIG}:5: drain_timout: unknown key" in self.journal(), "the journal does not say why")
        self.configure()
        before = self.pid()
        self.manual.elsewhere("rpm --upgrade")
        with Load(self.machine, seconds=30) as load:
            load.at(1)
            self.run(f"rpm --upgrade --nodeps /srv/rpm-newer/charon-{self.repository.newer}-1.*.rpm")
        verdict = load.verdict()
        expect(self.pid() != before and self.status()["version"] == self.repository.newer, "not upgraded")
        expect("edited by the administrator" in self.machine.read(CONFIG), f"{CONFIG} was overwritten")
        self.manual.play(self.machine, "Install with rpm", 1)
        expect(not self.answers() and not self.machine.succeeds("pgrep -u charon"), "it still runs")
        self.run(f"test -e {CONFIG}.rpmsave && test ! -e /opt/charon")
        return f"started, bad reload refused, upgraded ({verdict}), erased"
