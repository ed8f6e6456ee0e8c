"""The order of things. Exits with 0 when everything held, 1 when something did not."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from scripts.packagelib import packages
from scripts.packagelib.ends import Ends
from scripts.packagelib.machine import PROJECT, CannotBoot, CommandFailed, Machine
from scripts.packagelib.manual import README, Manual
from scripts.packagelib.steps import Steps
from scripts.packagelib.subject import Repository
from scripts.packagelib.units import Units

NEWER = "0.99.0"
REFUSING = "0.99.1"


class Table:
    """What was checked, and what came of it."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float, str]] = []
        self.failed = False

    def check(self, title: str, step: Callable[[], str]) -> bool:
        """Run a step. What is wrong is kept for the table."""
        began = monotonic()
        print(f"==> {title}", flush=True)
        try:
            verdict, words = "passed", step()
        except (CommandFailed, CannotBoot, subprocess.SubprocessError) as error:
            verdict, self.failed = "FAILED", True
            words = str(error) + str(getattr(error, "output", "") or "") + str(getattr(error, "stderr", "") or "")
        self.rows.append((title, verdict, monotonic() - began, words))
        print(f"    {verdict}: {words}", flush=True)
        return verdict == "passed"

    def show(self) -> None:
        print("\n======== packages")
        for title, verdict, seconds, words in self.rows:
            first = words.strip().split("\n")[0]
            print(f"{title:22} {verdict:6} {seconds:5.0f} s  {first[:160]}")
        failed = sum(verdict == "FAILED" for _, verdict, _, _ in self.rows)
        print(f"\n{len(self.rows) - failed} passed, {failed} failed")


def play(table: Table, steps: Steps, units: Units, ends: Ends) -> None:
    """A package's life, from its installation to its end; without the first two nothing else makes sense."""
    if not (table.check("apt install", steps.install) and table.check("start", steps.start)):
        return
    life: list[tuple[str, Callable[[], str]]] = [
        ("sandbox", units.sandbox),
        ("sidecar first", units.sidecar),
        ("reload", steps.reload),
        ("reload with a mistake", steps.bad_reload),
        ("logrotate under load", steps.rotate),
        ("kill -9", steps.killed),
        ("restart under load", steps.restart),
        ("replace under load", steps.replace),
        ("boot", units.reboot),
        ("certificates", steps.certificates),
        ("interception", units.intercept),
        ("apt upgrade under load", steps.upgrade),
        ("refused upgrade", steps.refused_upgrade),
        ("roll back under load", steps.roll_back),
        ("commands to look with", steps.debug),
        ("apt remove", ends.remove),
        ("apt purge", ends.purge),
        ("apt, from a file", ends.from_file),
        ("from a clone", ends.from_clone),
        ("rpm", ends.rpm),
    ]
    for title, step in life:
        table.check(title, step)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/packages-test", description="Build the packages and live with them.")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="packages to use instead of building them")
    parser.add_argument("--keep", action="store_true", help="leave the root behind")
    arguments = parser.parse_args()
    table = Table()
    scratch = Path(tempfile.mkdtemp(prefix="charon-packages-"))
    machine = Machine(scratch / "root", Path(os.environ["CHARON_PACKAGE_ROOT_TAR"]))
    try:
        try:
            took = machine.boot()
        except CannotBoot as error:
            untested = "THE PACKAGES WERE NOT TESTED (built, installed, upgraded, removed)"
            print(f"\n*** {untested}: systemd-nspawn cannot boot a root here: {error} ***\n")
            return 1 if os.environ.get("CHARON_PACKAGES_TEST") == "required" else 0
        table.check("the root boots", lambda: f"in {took:.1f} s")
        return _with(machine, table, scratch, arguments.packages)
    finally:
        if arguments.keep:
            machine.stop()
            print(f"the root is in {machine.root}")
        else:
            machine.remove()
            shutil.rmtree(scratch)


def _with(machine: Machine, table: Table, scratch: Path, ready_made: Path | None) -> int:
    first, first_rpm = (
        packages.found(ready_made) if ready_made else packages.build(PROJECT, scratch / "first", tests=True)
    )
    source = packages.later_version(packages.copy_of_the_project(scratch / "source"), NEWER)
    newer, newer_rpm = packages.build(source, scratch / "newer", tests=False)
    debs = {"first": first, "newer": newer, "refusing": packages.refusing(newer, scratch, REFUSING)}
    sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in (first, first_rpm))
    table.check("lint and size", lambda: f"{packages.lint(first, first_rpm)}; {sizes}")

    subprocess.run(["dpkg-deb", "--extract", first, scratch / "extracted"], check=True)
    shutil.copytree(scratch / "extracted/opt/charon", machine.root / "srv/backend", symlinks=True)
    for name, file in (("rpm", first_rpm), ("rpm-newer", newer_rpm)):
        (machine.root / "srv" / name).mkdir()
        shutil.copy(file, machine.root / "srv" / name)
    packages.copy_of_the_project(machine.root / "srv/clone")
    (machine.root / "srv/clone/dist").mkdir()
    shutil.copy(first, machine.root / "srv/clone/dist")
    shutil.copytree(os.environ["CHARON_WHEELS"], machine.root / "srv/wheels")
    manual, readme = Manual(), Manual(README, only=("Install",))
    repository = Repository(machine, debs, packages.signer(scratch / "gnupg"))
    subject = machine, manual, readme, repository
    play(table, Steps(*subject), Units(*subject), Ends(*subject))
    if not table.failed:
        left = manual.left() + readme.left()
        table.check("documents", lambda: "every command was run" if not left else _unrun(left))
    table.show()
    return 1 if table.failed else 0


def _unrun(left: list[str]) -> str:
    raise CommandFailed(f"commands that were not run: {'; '.join(left)}")


if __name__ == "__main__":
    sys.exit(main())
