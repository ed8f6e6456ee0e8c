"""The packages that the test needs: built, and built again as later versions; and a key to sign them with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from scripts.packagelib.machine import PROJECT

REFUSAL = """\
class Timeouts(Section):
    @__import__("pydantic").field_validator("idle")
    @classmethod
    def _refuse(cls, value: object) -> object:
        if value == 80.0:
            raise ValueError("80s is not possible in this version")
        return value
"""
"""What the refusing version has in timeouts.py for the first line of the class."""


def build(source: Path, folder: Path, *, tests: bool) -> tuple[Path, Path]:
    """Both packages of the project in ``source``."""
    arguments = [] if tests else ["--without-tests"]
    subprocess.run([source / "packaging/build", *arguments, folder], check=True)
    return found(folder)


def found(folder: Path) -> tuple[Path, Path]:
    """The .deb and the .rpm in ``folder``."""
    return next(folder.glob("charon_*.deb")), next(folder.glob("charon-*.rpm"))


def copy_of_the_project(folder: Path) -> Path:
    """The project as it stands here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    ).stdout
    for name in listed.decode().split("\0")[:-1]:
        if (PROJECT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name, follow_symlinks=False)
    return folder


def later_version(folder: Path, version: str) -> Path:
    """The project in ``folder`` as another version of itself."""
    package = folder / "charon/__init__.py"
    package.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', package.read_text()))
    changes = folder / "debian/changelog"
    entry = f"charon ({version}) unstable; urgency=medium\n\n  * A later version.\n\n"
    entry += " -- The Charon authors <maintainers@charon.invalid>  Tue, 24 Nov 2026 18:00:00 +0000\n\n"
    changes.write_text(entry + changes.read_text())
    return folder


def refusing(deb: Path, folder: Path, version: str) -> Path:
    """``deb`` as ``version``, which refuses timeouts.idle: 80s."""
    tree = folder / "refusing"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(), flags=re.MULTILINE))
    build_id = tree / "opt/charon/BUILD"
    build_id.write_text(f"{version}-refusing\n")
    (site,) = (tree / "opt/charon/lib").glob("python3.*/site-packages/charon")
    for name, before, after in (
        ("__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"'),
        ("config/schema/timeouts.py", r"^class Timeouts\(Section\):\n", REFUSAL),
    ):
        file = site / name
        text, count = re.subn(before, after, file.read_text(), flags=re.MULTILINE)
        assert count == 1, name
        file.write_text(text)
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()
    package = folder / f"charon_{version}_{deb.stem.split('_')[2]}.deb"
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", "-z1", "--root-owner-group", tree, package], check=True)
    shutil.rmtree(tree)
    return package


def signer(home: Path) -> Callable[[Path, Path], None]:
    """What puts a package into a repository, signed with a key of this test alone."""
    home.mkdir(mode=0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}
    name = "packages-test@charon.invalid"
    make = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "1d"]
    subprocess.run(make, check=True, env=environment)

    def publish(repository: Path, package: Path) -> None:
        subprocess.run([PROJECT / "packaging/apt-repo", repository, name, package], check=True, env=environment)

    return publish


def lint(deb: Path, rpm: Path) -> str:
    """What lintian and rpmlint say. Raises CalledProcessError with their words when they find an error."""
    one = subprocess.run(
        ["lintian", "--fail-on", "error", "--allow-root", deb], capture_output=True, text=True, check=True
    )
    filters = PROJECT / "packaging/rpm/rpmlint.toml"
    other = subprocess.run(["rpmlint", "--config", filters, rpm], capture_output=True, text=True)
    match = re.search(r"(\d+) errors, (\d+) warnings", other.stdout)
    if match is None or match[1] != "0":
        raise subprocess.CalledProcessError(1, "rpmlint", other.stdout, other.stderr)
    warnings = sum(line.startswith("W:") for line in one.stdout.splitlines())
    return f"lintian 0 errors, {warnings} warnings; rpmlint 0 errors, {match[2]} warnings"
