"""Whatever keeps Charon from starting: one clear line, in the log too where there is one, and the right exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCharon
from tests.harness.backends import Program
from tests.harness.charon import CharonProcess, sample
from tests.harness.client import RawClient
from tests.harness.waiting import eventually

UNPRIVILEGED = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


def target(**settings: Any) -> dict[str, Any]:
    """A configuration with nothing wrong, besides ``settings``."""
    return {"listeners": [{"name": "web", "address": "127.0.0.1:0"}], "target_service_addr": "127.0.0.1:9", **settings}


def listening_on(address: str) -> dict[str, Any]:
    return target(listeners=[{"name": "web", "address": address}])


def without(*capabilities: str) -> list[str]:
    """A prefix that runs a program as an ordinary user would, in these respects, when the tests run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set", ",".join(f"-{name}" for name in capabilities)]


def refused(charon: CharonProcess) -> tuple[int, list[str]]:
    """Exit code and lines of a start that fails."""
    charon.start(wait=False)
    code = charon.wait()
    text = charon.stderr()
    assert "Traceback" not in text
    assert not [line for line in charon.raw_log() if "stack" in line or "Traceback" in line]
    assert not charon.admin_socket.exists()
    return code, text.splitlines()


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charon", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=20)


# -- 1: the configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("listen_port: [8080\n", 2, ""),
        ("listen_prot: 1\ntarget_service_addr: a:1\n", 1, "listen_prot: unknown key; did you mean listen_port?"),
        ("target_service_addr: localhost:1\ntimeouts:\n  connect: banana\n", 3, "timeouts.connect: "),
        ("listen_port: 99999\ntarget_service_addr: localhost:1\n", 1, "listen_port: "),
        ("target_service_addr: localhost:1\nprotocol: carrier-pigeon\n", 2, "protocol: "),
    ],
    ids=["bad YAML", "unknown key", "bad duration", "bad port", "bad choice"],
)
def test_a_mistake_in_the_configuration_is_told_with_its_place(
    make_charon: StartCharon, text: str, line: int, words: str
) -> None:
    charon = make_charon("")
    charon.config_path.write_text(text)
    code, lines = refused(charon)
    assert code == 1
    (told,) = lines
    assert told.startswith(f"{charon.config_path}:{line}: {words}")
    assert charon.raw_log() == [], "nothing was begun"


def test_all_mistakes_are_told_at_once(make_charon: StartCharon) -> None:
    charon = make_charon("")
    text = "listen_prot: 1\nworkers: none\ntimeouts: {idle: soon}\ntarget_service_addr: nowhere\n"
    charon.config_path.write_text(text)
    code, lines = refused(charon)
    assert code == 1
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3", "4"]


def test_an_empty_configuration(make_charon: StartCharon) -> None:
    charon = make_charon("")
    charon.config_path.write_text("")
    assert refused(charon) == (
        1,
        [f"{charon.config_path}:1: the file is empty; write keys such as target_service_name: NAME"],
    )


def test_a_missing_configuration(make_charon: StartCharon) -> None:
    charon = make_charon(target())
    charon.config_path.unlink()
    code, lines = refused(charon)
    assert code == 1
    (line,) = lines
    assert str(charon.config_path) in line and "no such file" in line.lower()


def test_no_configuration_at_all(tmp_path: Path) -> None:
    done = run("run", cwd=tmp_path)
    if Path("/etc/charon/config.yaml").exists():
        pytest.skip("this machine has a configuration of its own")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "neither /etc/charon/config.yaml nor ./config.yaml exists; write --config FILE\n"


def test_a_configuration_that_may_not_be_read(make_charon: StartCharon) -> None:
    charon = make_charon(target(), prefix=without("dac_override", "dac_read_search"))
    charon.config_path.chmod(0)
    code, lines = refused(charon)
    assert code == 1
    (line,) = lines
    assert str(charon.config_path) in line and "permission denied" in line.lower()


def test_check_tells_the_same_mistakes(make_charon: StartCharon) -> None:
    charon = make_charon("")
    charon.config_path.write_text("listen_prot: 8080\ntarget_service_addr: localhost:1\n")
    _, lines = refused(charon)
    done = run("check", "--config", str(charon.config_path), cwd=charon.folder)
    assert done.returncode == 1
    assert done.stdout.splitlines()[:-1] == lines


# -- 1, and not: the registry -----------------------------------------------------------------------------------------


def registered() -> dict[str, Any]:
    config = target(target_service_name="web")
    del config["target_service_addr"]
    return config


def test_a_missing_registry_is_a_mistake_for_check(make_charon: StartCharon) -> None:
    charon = make_charon(registered())
    done = run("check", "--config", str(charon.config_path), cwd=charon.folder)
    assert done.returncode == 1
    assert done.stderr == ""
    assert f"there is no such file: {charon.registry_path}" in done.stdout


def test_without_its_registry_charon_starts_and_waits_for_it(start_charon: StartCharon, http_backend: Program) -> None:
    charon = start_charon(registered())
    failed = charon.wait_for_event("registry_reload_failed", level="error", file=str(charon.registry_path))
    assert "No such file" in failed["problems"][0]
    with RawClient(charon.port()) as client:
        response = client.get()
        assert (response.status, response.error) == (503, "unknown_service")
    metrics = charon.metrics()
    assert sample(metrics, "charon_registry_last_reload_successful") == 0
    assert sample(metrics, "charon_registry_last_reload_success_timestamp_seconds") == 0
    charon.write_registry({"web": http_backend.address})
    charon.wait_for_event("registry_reloaded", services=1)
    eventually(lambda: status(charon) == 200)
    assert sample(charon.metrics(), "charon_registry_last_reload_successful") == 1


def test_with_a_broken_registry_charon_starts_and_waits_for_a_better_one(
    start_charon: StartCharon, http_backend: Program
) -> None:
    charon = start_charon(registered(), "services:\n  web: [not an address\n")
    failed = charon.wait_for_event("registry_reload_failed")
    assert failed["problems"][0].startswith(f"{charon.registry_path}:")
    charon.write_registry({"web": http_backend.address})
    eventually(lambda: status(charon) == 200)


def status(charon: CharonProcess) -> int:
    with RawClient(charon.port()) as client:
        return client.get().status


# -- 2: usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--colour"], ["fly"], ["run", "--config"], ["run", "extra"]])
def test_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: charon ")
    assert "Traceback" not in done.stderr


# -- 3: cannot start --------------------------------------------------------------------------------------------------


def cannot_start(charon: CharonProcess) -> str:
    """The one line of a start that fails for other reasons than its configuration; the log says the same."""
    code, lines = refused(charon)
    assert code == 3
    (line,) = lines
    assert line.startswith("charon: ")
    words = line.removeprefix("charon: ")
    assert [event["error"] for event in charon.log_lines("start_failed")] == [words]
    return words


def test_a_port_in_use_by_another_program(make_charon: StartCharon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        words = cannot_start(make_charon(listening_on(address), workers=2))
    assert words == (
        f"cannot listen on {address}: address already in use (another program listens there; `ss -ltnp` names it)"
    )


def test_a_port_in_use_by_another_charon_is_not_shared_with_it(
    start_charon: StartCharon, make_charon: StartCharon, http_backend: Program
) -> None:
    first = start_charon(target(target_service_addr=http_backend.address), workers=2)
    words = cannot_start(make_charon(listening_on(first.address()), workers=2))
    assert words.startswith(f"cannot listen on {first.address()}: address already in use")
    assert all(status(first) == 200 for _ in range(10))


@pytest.mark.skipif(UNPRIVILEGED < 2, reason="every user of this machine may use every port")
def test_a_port_that_needs_a_permission(make_charon: StartCharon) -> None:
    address = f"127.0.0.1:{UNPRIVILEGED - 1}"
    words = cannot_start(make_charon(listening_on(address), prefix=without("net_bind_service")))
    assert words.startswith(f"cannot listen on {address}: permission denied (")
    assert "CAP_NET_BIND_SERVICE" in words


def test_a_unix_socket_in_a_folder_that_may_not_be_written(make_charon: StartCharon, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir(mode=0o500)
    charon = make_charon(listening_on(f"unix:{folder}/s"), prefix=without("dac_override"))
    assert cannot_start(charon).startswith(f"cannot listen on unix:{folder}/s: permission denied")


def test_an_address_that_is_not_on_this_machine(make_charon: StartCharon) -> None:
    assert cannot_start(make_charon(listening_on("192.0.2.1:0"))) == (
        "cannot listen on 192.0.2.1:0: cannot assign requested address "
        "(this machine does not have that address; `ip addr` lists those it has)"
    )


def test_an_admin_socket_in_use(start_charon: StartCharon, make_charon: StartCharon, http_backend: Program) -> None:
    first = start_charon(target(target_service_addr=http_backend.address))
    second = make_charon(target(admin={"socket": str(first.admin_socket)}))
    words = cannot_start(second)
    assert words.startswith(f"cannot listen on unix:{first.admin_socket}: address already in use")
    assert first.admin("/livez") == (200, b"ok\n"), "the first one's socket is left alone"


def log_file(path: Path) -> dict[str, Any]:
    return target(logging={"file": str(path)})


def no_log(charon: CharonProcess) -> str:
    """The one line of a start that fails before there is a log."""
    code, lines = refused(charon)
    assert code == 3
    assert charon.raw_log() == []
    (line,) = lines
    return line


def test_a_log_file_in_a_missing_folder(make_charon: StartCharon, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "charon.log"
    assert no_log(make_charon(log_file(path))) == f"charon: cannot open the log file {path}: no such file or directory"


def test_a_log_file_that_is_a_folder(make_charon: StartCharon, tmp_path: Path) -> None:
    assert no_log(make_charon(log_file(tmp_path))) == f"charon: cannot open the log file {tmp_path}: is a directory"


def test_a_log_file_that_may_not_be_written(make_charon: StartCharon, tmp_path: Path) -> None:
    path = tmp_path / "charon.log"
    path.touch(mode=0o400)
    charon = make_charon(log_file(path), prefix=without("dac_override"))
    assert no_log(charon) == f"charon: cannot open the log file {path}: permission denied"


def test_a_failed_start_is_in_the_log_file_too(make_charon: StartCharon, tmp_path: Path) -> None:
    path = tmp_path / "charon.log"
    charon = make_charon({**listening_on("192.0.2.1:0"), "logging": {"file": str(path)}})
    code, lines = refused(charon)
    assert code == 3 and len(lines) == 1
    events = [json.loads(line) for line in path.read_text().splitlines()]
    (failed,) = [event for event in events if event["message"] == "start_failed"]
    assert lines == [f"charon: {failed['error']}"]
