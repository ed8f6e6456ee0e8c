"""What packages bring beside the program: versions side by side, completion. scripts/packages-test has the whole."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from scripts.packagelib.manual import Manual

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def activate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """packaging/opt/activate, with a package's files below ``tmp_path``, no service, and a configuration that suits."""
    loader = SourceFileLoader("activate", str(ROOT / "packaging/opt/activate"))
    spec = spec_from_loader("activate", loader)
    assert spec is not None
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = module_from_spec(spec)
    loader.exec_module(module)
    for name, path in (("HOME", ""), ("VERSIONS", "versions"), ("CURRENT", "current"), ("NEXT", "next")):
        setattr(module, name, tmp_path / path)
    monkeypatch.setattr(module, "main_pid", lambda: 0)
    monkeypatch.setattr(module, "accepts", lambda version: True)
    install(tmp_path, "1-a")
    return module


def install(home: Path, build: str) -> None:
    """The files of a package, as a package manager puts them there: by a rename over what was."""
    for name in ("BUILD", "bin/python", "lib/code.py", "pyvenv.cfg"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).with_suffix(".new").write_text(build)
        (home / name).with_suffix(".new").rename(home / name)


def run(activate: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run it; the version that is in force then."""
    monkeypatch.setattr(sys, "argv", ["activate", *arguments])
    assert activate.main() == 0
    return str((activate.CURRENT / "lib/code.py").read_text())


def test_a_version_is_a_folder_of_links_that_outlives_the_package(
    activate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(activate, monkeypatch) == "1-a"
    first = activate.CURRENT.resolve()
    assert (first / "lib/code.py").samefile(tmp_path / "lib/code.py")
    install(tmp_path, "2-b")
    assert (first / "lib/code.py").read_text() == "1-a"
    assert run(activate, monkeypatch) == "2-b"
    assert [path.name for path in activate.VERSIONS.iterdir()] == ["2-b"], "nobody runs the first any more"


def test_what_somebody_runs_is_kept(activate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(activate, monkeypatch)
    program = activate.CURRENT.resolve() / "bin/python"
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(activate, "program", lambda pid: str(program) if pid == process.pid else "")
        install(tmp_path, "2-b")
        assert run(activate, monkeypatch) == "2-b"
        assert program.exists()
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    run(activate, monkeypatch)
    assert not program.exists()


def test_a_start_takes_the_new_version_only_if_it_accepts_the_configuration(
    activate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(activate, monkeypatch)
    install(tmp_path, "2-b")
    monkeypatch.setattr(activate, "accepts", lambda version: False)
    assert run(activate, monkeypatch, "--starting") == "1-a"
    assert "2-b refuses the configuration" in capsys.readouterr().out
    monkeypatch.setattr(activate, "accepts", lambda version: True)
    assert run(activate, monkeypatch, "--starting") == "2-b"


def test_an_upgrade_that_fails_leaves_the_version_in_force(
    activate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(activate, monkeypatch)
    install(tmp_path, "2-b")
    told: list[str] = []
    monkeypatch.setattr(activate, "main_pid", lambda: 7)
    monkeypatch.setattr(activate.subprocess, "run", lambda command, **_: told.append(activate.NEXT.resolve().name))
    monkeypatch.setattr(activate, "outcome", lambda *_: "it ended with exit code 1")
    assert run(activate, monkeypatch) == "1-a"
    assert told == ["2-b"], "the service is told while the next version is named"
    assert not activate.NEXT.is_symlink()
    assert "could not take over: it ended with exit code 1" in capsys.readouterr().out
    monkeypatch.setattr(activate, "outcome", lambda *_: None)
    assert run(activate, monkeypatch) == "2-b"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("charon certs r", "request rotate"), ("charon log-level w", "warning"), ("charon status --j", "--json")],
)
def test_bash_completes(typed: str, offered: str) -> None:
    script = f"source packaging/completion/charon.bash; COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    done = subprocess.run(
        ["bash", "-c", f'{script}; _charon; echo "${{COMPREPLY[@]}}"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == offered


def test_every_section_of_the_operations_manual_is_in_the_slow_test() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    steps = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "scripts/packagelib").glob("*.py"))
    sections = text.split("\n## ")[1:]
    commands = [section.split("\n")[0] for section in sections if "```sh" in section]
    assert [title for title in commands if f'"{title}"' not in steps] == []


def test_commands_in_blocks_and_in_sentences_count_until_they_are_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n## Use\n\nThe user `charon`; `charon drain` ends, `systemctl stop charon` too, see `/etc`.\n\n"
        "```sh\ncharon drain\n```\n\n```yaml\nkey: `charon check`\n```\n\n## Other\n\n```bash\ntrue\n```\n"
    )
    manual = Manual(page)
    assert manual.left() == ["Other, block 1", "Use, block 1", "charon drain", "systemctl stop charon"]
    assert manual.block("Use") == "charon drain\n"
    assert manual.left() == ["Other, block 1", "systemctl stop charon"]
    manual.elsewhere("systemctl stop charon")
    with pytest.raises(KeyError):
        manual.elsewhere("charon reload")
    assert manual.left() == ["Other, block 1"]
    assert Manual(page, only=("Other",)).left() == ["Other, block 1"]
