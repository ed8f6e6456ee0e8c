"""What is between Charon and systemd: its sandbox, who waits for whom, interception, and the machine's boot."""

from __future__ import annotations

import re

from scripts.packagelib.machine import until
from scripts.packagelib.subject import PATIENCE, Subject, expect

EXPOSURE_BAR = 2.0
APPLICATION = """\
[Unit]
Description=An application that asks for something at once
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/curl -sf http://localhost:8080/at-start
ExecStop=/usr/bin/curl -sf http://localhost:8080/at-stop
"""
INTERCEPTION = """\
listeners:
  - {name: web, address: ':8080'}
  - {name: outbound, address: ':15001', protocol: auto, original_destination: true}
intercept: {enabled: true, outbound: {listener: outbound, users: [daemon]}}
"""


class Units(Subject):
    def sandbox(self) -> str:
        said = self.run("systemd-analyze --no-pager security charon | tail -n 1")
        exposure = float(re.findall(r"[0-9]+\.[0-9]+", said)[0])
        expect(exposure <= EXPOSURE_BAR, said)
        secured = self.run(f"grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/{self.pid()}/status | tr -s '\\t\\n' '  '")
        expect("NoNewPrivs: 1" in secured and "Seccomp: 2" in secured, secured)
        return f"exposure {exposure} (at most {EXPOSURE_BAR:g}); {secured.strip()}"

    def sidecar(self) -> str:
        """An application with the drop-in is started after Charon serves, and stopped before it stops."""
        self.machine.write("/etc/systemd/system/app.service", APPLICATION)
        self.manual.play(self.machine, "Start and stop", 3)
        said = self.run("systemd-analyze verify --man=no app.service charon.service charon-intercept.service")
        expect(not re.search(r"app|charon", said), said)
        # Both stop with it, as they do with a machine: two names after `systemctl stop` are two stops.
        self.run("cd /etc/systemd/system && mkdir -p charon.service.d app.service.d")
        self.machine.write("/etc/systemd/system/both.target", "[Unit]\nDescription=Both\n")
        for unit in ("charon", "app"):
            self.machine.write(f"/etc/systemd/system/{unit}.service.d/both.conf", "[Unit]\nPartOf=both.target\n")
        try:
            self.run("systemctl daemon-reload; systemctl start both.target; systemctl stop charon; systemctl start app")
            expect(self.answers(), "Charon was not started with the application")
            self.run("systemctl stop both.target")
            expect(not self.machine.succeeds("systemctl is-active charon"), "Charon was not stopped")
            journal = self.journal()
            expect('"path":"/at-start"' in journal and '"path":"/at-stop"' in journal, "a request did not come through")
            result = self.run("systemctl show -p Result --value app").strip()
            expect(result == "success", f"the application ended with {result}")
        finally:
            self.run("rm -rf /etc/systemd/system/app.service* /etc/systemd/system/{both.target,*.service.d/both.conf}")
            self.run("systemctl daemon-reload; systemctl start charon")
        return "units verified; the application's first and last request came through"

    def reboot(self) -> str:
        self.run("journalctl --rotate")
        self.manual.say(self.machine, "systemctl disable charon")
        self.machine.stop()
        self.machine.boot()
        expect(not self.machine.succeeds("systemctl is-active charon"), "it was started although it is disabled")
        self.manual.say(self.machine, "systemctl enable charon")
        self.machine.stop()
        took = self.machine.boot()
        self.start_backend()
        until(self.answers, PATIENCE, "an answer after the boot")
        return f"booted in {took:.1f} s, and answers; does not when disabled"

    def redirects(self) -> bool:
        return "redirect" in self.run("nft list ruleset")

    def intercept(self) -> str:
        """Rules come with the unit, go with it, and go with Charon, however that ends."""
        self.configure(INTERCEPTION)
        try:
            self.manual.play(self.machine, "Transparent interception")
            expect(not self.redirects(), "rules are left after the stop")
            self.manual.play(self.machine, "Transparent interception", 1)
            expect(self.redirects(), "no rules after the start")
            self.run("systemctl stop charon")
            expect(not self.redirects(), "rules are left after Charon's end")
            self.run("systemctl start charon")
            self._wanted("a start of Charon")
            self.crash()
            self._wanted("a crash of Charon that it came back from")
            took = self._crash_for_good()
        finally:
            self.run("systemctl disable --now charon-intercept", check=False)
            self.run("rm -rf /etc/systemd/system/charon.service.d")
            self.run("systemctl daemon-reload")
            self.configure()
            self.run("systemctl reset-failed; systemctl restart charon")
        expect(not self.redirects(), "rules are left")
        return f"with the unit, gone with it and with Charon; {took:.1f} s after kill -9 without a restart"

    def _wanted(self, after: str) -> None:
        """The unit is enabled: it comes with Charon, and so do the rules."""
        there = "systemctl is-active charon-intercept && charon intercept check"
        until(lambda: self.machine.succeeds(there) and self.redirects(), PATIENCE, f"rules after {after}")

    def _crash_for_good(self) -> float:
        """Kill a Charon that systemd does not start again; returns the seconds until the kernel has no rule of it."""
        self.run("mkdir -p /etc/systemd/system/charon.service.d")
        self.machine.write("/etc/systemd/system/charon.service.d/once.conf", "[Service]\nRestart=no\n")
        self.run(f"systemctl daemon-reload; kill -KILL {self.pid()}")
        took = until(lambda: "charon" not in self.run("nft list ruleset"), PATIENCE, "no rules after the crash")
        until(lambda: not self.machine.succeeds("systemctl is-active charon-intercept"), PATIENCE, "its unit has ended")
        return took
