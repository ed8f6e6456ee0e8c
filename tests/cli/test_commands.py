"""The command line: exit codes, what is printed where, and what is imported when."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from charon.base.errors import ConfigError, StartError
from charon.cli import check, main, schema
from charon.cli.terminal import Style, style_for

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = """\
target_service_name: web
routes:
  - {path_prefix: /admin, service: admin}
listeners:
  - {address: "127.0.0.1:8080"}
  - {address: ":5432", protocol: tcp, target_service_addr: "db:5432"}
"""
REGISTRY = "services: {web: [a:1, {address: b:2, weight: 3}], empty: []}\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("registry.yaml").write_text(REGISTRY)
    return tmp_path


def python(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environ},
    )


def test_check_sums_up_what_is_fine(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["check"]) == 0
    assert capsys.readouterr().out == (
        f"{files}/config.yaml: fine\n"
        "\n"
        "listeners\n"
        "  http-8080  http  127.0.0.1:8080  1 route  default web\n"
        "  tcp-5432   tcp   :5432                    default db:5432\n"
        "\n"
        "services\n"
        "  admin    named here, not in the registry yet: its requests are answered with 503\n"
        "  db:5432  db:5432\n"
        "  empty    no address\n"
        "  web      a:1, b:2 (weight 3)\n"
        "\n"
        "2 listeners, 3 services, 3 endpoints\n"
    )


def test_check_prints_every_mistake_of_both_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("target_service_name: web\nworkers: x\nlisten_prt: 1\n")
    Path("registry.yaml").write_text("services:\n  a: x\n")
    assert main.main(["check", "--config", "config.yaml"]) == 1
    assert capsys.readouterr().out == (
        "config.yaml:2: workers: 'x' is not allowed; write a number from 1 to 1024, or auto\n"
        "config.yaml:3: listen_prt: unknown key; did you mean listen_port?\n"
        f"{files}/registry.yaml:2: services.a: 'x' is not an address: the port is missing; write host:port, "
        "[ipv6]:port, http://host:port or unix:/path\n"
        "3 mistakes\n"
    )


def test_check_misses_a_registry_that_is_needed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("registry.yaml").unlink()
    assert main.main(["check"]) == 1
    out = f"config.yaml:1: registry_file: there is no such file: {files}/registry.yaml\n1 mistake\n"
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("argv", [["--config", "other.yaml", "check"], ["check", "--config", "other.yaml"]])
def test_the_configuration_may_be_named_on_either_side(
    files: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(argv) == 1
    assert capsys.readouterr().out == "other.yaml: there is no such file\n1 mistake\n"


def test_check_without_any_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if Path("/etc/charon/config.yaml").exists():
        pytest.skip("this machine has a configuration of its own")
    assert main.main(["check"]) == 1


def test_a_large_registry_is_not_listed_whole(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("registry.yaml").write_text("services:\n" + "".join(f"  s{i}: [a:1, a:2, a:3, a:4, a:5]\n" for i in range(80)))
    assert main.main(["check"]) == 0
    out = capsys.readouterr().out
    assert "a:4, ... 5 in all\n" in out
    assert "  ... and 33 more\n" in out


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["listen_port"]["default"] == "8080"


def test_the_version_names_what_charon_runs_on() -> None:
    done = python("-m", "charon", "version")
    assert done.returncode == 0
    assert re.fullmatch(
        r"charon \d+\.\d+\.\d+\ndata path (?:not )?compiled\n"
        r"Python 3\.\d+\.\d+\S* \(\w+\)\ngevent \S+\nevent loop lib\w+\.\w+, \w+\n", done.stdout
    )


@pytest.mark.parametrize("argv", [["bogus"], ["check", "--bogus"], ["--config"], ["check", "more"], ["--conf", "x"]])
def test_wrong_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(argv)
    assert ended.value.code == 2
    assert "usage: charon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (ConfigError(["f:1: a", "f:2: b"]), 1, "f:1: a\nf:2: b\n"),
        (StartError("port 80 is taken"), 3, "charon: port 80 is taken\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_an_exit_code_and_its_text_on_stderr(
    error: BaseException,
    code: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(schema, "run", fail)
    assert main.main(["schema"]) == code
    assert capsys.readouterr() == ("", printed)


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"'{sys.executable}' -m charon schema | head -1; '{sys.executable}' -m charon schema >&-"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    done = python(
        "-c",
        "import sys; from charon.cli.main import build_parser; build_parser().parse_args(['--config', 'x']);"
        "print(sorted({'gevent', 'ssl', 'socket', 'threading', 'pydantic', 'yaml', 'logging', 'subprocess',"
        " 'charon.cli.run', 'charon.cli.serve'} & set(sys.modules)))",
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_check_opens_no_socket_and_needs_no_gevent(files: Path) -> None:
    done = python(
        "-c",
        "import sys\n"
        "sys.addaudithook(lambda event, args: sys.exit(f'{event}') if event.startswith('socket.') else None)\n"
        "from charon.cli.main import main\n"
        "code = main(['check'])\n"
        "sys.exit(9 if 'gevent' in sys.modules else code)\n",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_colours_only_on_a_terminal(files: Path) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    assert style_for(terminal, {}).colours  # type: ignore[arg-type]
    assert not style_for(terminal, {"NO_COLOR": "1"}).colours  # type: ignore[arg-type]
    assert not style_for(terminal, {"TERM": "dumb"}).colours  # type: ignore[arg-type]
    assert not style_for(io.StringIO(), {}).colours
    assert Style(True).red("x") == "\033[31mx\033[0m"
    assert Style(False).red("x") == "x"
    assert "\033" not in python("-m", "charon", "check").stdout


def test_check_colours_the_place_of_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert check._report(["f:1: a: b"], Style(True)) == 1
    assert capsys.readouterr().out == "\033[1mf:1\033[0m: a: b\n\033[31m1 mistake\033[0m\n"
