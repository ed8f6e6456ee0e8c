"""The life of the package in the machine, one thing after the other; each returns what it measured."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from scripts.packagelib.load import Load
from scripts.packagelib.machine import until
from scripts.packagelib.subject import CONFIG, PATIENCE, Subject, expect

READY_BAR = 1.5
RECOVERY_BAR = 2.0
INSTALLED_BAR = 60.0
MOST = 25
"""Times that something is measured on a machine that has much else to do."""


def within(bar: float, measure: Callable[[], float]) -> str:
    """Measure something five times, and on until it is within ``bar`` once: the least says what the program takes, the
    others say what else the machine had to do. Returns the seconds in words. Raises CommandFailed."""
    times: list[float] = []
    while len(times) < 5 or (min(times) > bar and len(times) < MOST):
        times.append(measure())
    middle, worst = sorted(times)[len(times) // 2], max(times)
    words = f"{min(times):.2f} s, at most {bar:g} ({len(times)} times, the middle {middle:.2f}, the worst {worst:.2f})"
    expect(min(times) <= bar, words)
    return words


class Steps(Subject):
    def install(self) -> str:
        began = monotonic()
        self.manual.play(self.machine, "Install with apt")
        took = monotonic() - began
        self.start_backend()
        until(self.answers, PATIENCE, "an answer through the service that the installation started")
        for command in ("packaging/build", "packaging/apt-repo"):  # whose work this is
            self.manual.elsewhere(command)
        size = int(self.run("dpkg-query -W -f '${Installed-Size}' charon")) / 1024
        used = int(self.run("du -sk /opt/charon | cut -f1")) / 1024
        for measured in (size, used):
            expect(measured <= INSTALLED_BAR, f"{measured:.1f} MB installed; at most {INSTALLED_BAR:g}")
        return f"{took:.1f} s; {size:.1f} MB installed ({used:.1f} MB in blocks of this disk)"

    def start(self) -> str:
        """With one worker."""
        self.configure("workers: 1")
        took = within(READY_BAR, self._start)
        expect(self.answers(), "no answer")
        self.manual.play(self.machine, "Start and stop", 0)
        return f"ready with one worker after {took}"

    def _start(self) -> float:
        self.manual.say(self.machine, "systemctl stop charon")
        self.run("systemctl reset-failed charon")  # and its count of starts
        began = monotonic()
        self.run("systemctl start charon")
        return monotonic() - began

    def reload(self) -> str:
        before = self.pid()
        self.configure("drain_timeout: 20s")
        self.manual.play(self.machine, "Configure and reload", 0)
        expect(self.status()["last_reload"]["ok"] is True, "not in force")
        self.manual.play(self.machine, "Configure and reload", 2)
        self.run("zgrep -q drain_timeout /usr/share/man/man5/charon.yaml.5.gz")
        self.manual.elsewhere("man charon.yaml")  # there is no man here
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
        until(lambda: self.logged() - before >= load.total, PATIENCE, f"{load.total} lines in the log")
        files = self.run("ls /var/log/charon | wc -l").strip()
        expect(int(files) == 4, f"{files} files after three rotations")
        lines = self.logged() - before
        expect(lines == load.total, f"{lines} lines for {load.total} requests")
        return f"{verdict}; {load.total} lines in {files} files"

    def killed(self) -> str:
        return f"serving again after {within(RECOVERY_BAR, self.crash)}"

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

    def certificates(self) -> str:
        self.manual.play(self.machine, "Certificates", 0)
        self.manual.play(self.machine, "Certificates", 1)
        loose = self.run("find /var/lib/charon -name '*.key*' -perm /077").strip()
        expect(loose == "", f"open to others: {loose}")
        return "made, shown and renewed as the user charon"

    def upgrade(self) -> str:
        """To a version that the test has built, under load; what the administrator edited stays."""
        edited = self.machine.read(CONFIG)
        before = self.pid()
        self.repository.publish("newer")
        with Load(self.machine, seconds=45) as load:
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
        with Load(self.machine, seconds=30) as load:
            load.at(1)
            said = self.run("apt-get update -q && apt-get install -y --only-upgrade charon")
        verdict = load.verdict()
        expect(self.pid() == before and self.status()["version"] == self.repository.newer, "it does not run any more")
        mistake = f"{CONFIG}:5: timeouts.idle"
        expect(mistake in said, f"apt does not say {mistake}: {said}")
        worker = self.status()["workers"][0]["pid"]
        self.run(f"kill -KILL {worker}")
        until(lambda: self.status()["workers"][0]["pid"] != worker, PATIENCE, "another worker")
        until(lambda: self.machine.succeeds("charon status --ready"), PATIENCE, "ready again")
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
        with Load(self.machine, seconds=30) as load:
            load.at(1)
            self.manual.play(self.machine, "Roll back")
        expect(self.status()["version"] == self.repository.first, "another version runs")
        return load.verdict()

    def debug(self) -> str:
        self.configure("request_id: true")
        self.run("systemctl reload charon")
        self.manual.play(self.machine, "When something is wrong")
        explain = self.manual.block("When something is wrong", 1)
        # The access line is in the journal a moment later.
        until(lambda: "/hello" in self.run(explain, check=False), PATIENCE, "the story of a request")
        left = self.run("ls /opt/charon/versions").split()
        self.run("systemctl restart charon")
        kept = self.run("ls /opt/charon/versions").split()
        expect(len(kept) == 1, f"versions that nobody runs: {kept}")
        return f"a request explained; {len(left)} versions before a restart, {len(kept)} after it"
