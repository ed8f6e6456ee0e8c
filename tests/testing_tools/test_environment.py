"""scripts/run and scripts/test make their environment once, and say plainly what they lack.

The scripts run on a copy of themselves, with an interpreter that only writes down what it is asked to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE_PYTHON = """\
#!/bin/sh
printf '%s\\n' "$*" >> "$ASKED"
case "$*" in
    "-m pip install"*) exit "${PIP_STATUS:-0}" ;;
    "-c "*) echo 3.11 ;;
esac
"""


class House:
    """A copy of the repository's scripts beside a made environment."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.venv = folder / "environment"
        self.asked = folder / "asked"
        shutil.copytree(ROOT / "scripts/lib", self.root / "scripts/lib", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("scripts/run", "scripts/test", "requirements.txt", "requirements-dev.txt", "setup.py"):
            shutil.copy(ROOT / name, self.root / name)
        (self.venv / "bin").mkdir(parents=True)
        (self.venv / "pyvenv.cfg").touch()
        (self.venv / "bin/python").write_text(FAKE_PYTHON, encoding="utf-8")
        (self.venv / "bin/python").chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.asked.write_text("", encoding="utf-8")
        variables = {**os.environ, "CHARON_VENV": str(self.venv), "ASKED": str(self.asked), **environment}
        command = ["bash", str(self.root / "scripts" / script), *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)

    def installs(self) -> list[str]:
        """What pip was told to install, by the last run."""
        lines = self.asked.read_text(encoding="utf-8").splitlines()
        return [line.split()[-1] for line in lines if line.startswith("-m pip install")]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_first_start_installs_and_the_second_does_not(house: House) -> None:
    assert house.run("run", "--prepare").returncode == 0
    assert house.installs() == [str(house.root / "requirements.txt"), str(house.root)]
    assert house.run("run", "--prepare").returncode == 0
    assert house.installs() == []


@pytest.mark.parametrize("name", ["requirements.txt", "setup.py"])
def test_a_changed_requirement_is_installed(house: House, name: str) -> None:
    house.run("run", "--prepare")
    with (house.root / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    house.run("run", "--prepare")
    assert house.installs() == [str(house.root / "requirements.txt"), str(house.root)]


def test_what_the_tests_installed_is_enough_to_run(house: House) -> None:
    assert house.run("test", "--prepare").returncode == 0
    assert house.installs() == [str(house.root / "requirements-dev.txt"), str(house.root)]
    house.run("run", "--prepare")
    assert house.installs() == []


def test_a_failed_installation_is_tried_again(house: House) -> None:
    failed = house.run("run", "--prepare", PIP_STATUS="1")
    assert failed.returncode == 1
    assert "run: pip failed (see above)" in failed.stderr
    house.run("run", "--prepare")
    assert len(house.installs()) == 2


def test_a_folder_that_is_no_environment_is_left_alone(house: House) -> None:
    (house.venv / "pyvenv.cfg").unlink()
    refused = house.run("run", "--prepare")
    assert refused.returncode == 1
    assert "is not a Python environment" in refused.stderr
    assert house.asked.read_text(encoding="utf-8") == ""


def test_ones_own_configuration_is_run_with_all_its_arguments(house: House) -> None:
    done = house.run("run", "--config", "a file.yaml")
    assert done.returncode == 0
    assert house.asked.read_text(encoding="utf-8").splitlines()[-1] == "-m charon run --config a file.yaml"


def test_arguments_of_test_reach_pytest(house: House) -> None:
    assert house.run("test", "-x", "tests/wire").returncode == 0
    assert house.asked.read_text(encoding="utf-8").splitlines()[-1] == "-m pytest -x tests/wire"


@pytest.mark.parametrize("arguments", [["--unknown"], ["--config"], ["--prepare", "more"]])
def test_wrong_usage_shows_the_usage(house: House, arguments: list[str]) -> None:
    done = house.run("run", *arguments)
    assert done.returncode == 2
    assert "scripts/run --config FILE" in done.stderr


def test_a_missing_python_is_named_in_one_line(house: House, tmp_path: Path) -> None:
    # A machine with no Python and no apt-get: only what the script itself needs.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "dirname", "flock", "id", "ls", "mkdir", "sed"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is not installed"))
    shutil.rmtree(house.venv)
    done = house.run("run", "--prepare", PATH=str(tools))
    assert done.returncode == 1
    assert done.stderr == "run: missing: Python 3.11 or later (as root: apt-get install python3 python3-venv)\n"
