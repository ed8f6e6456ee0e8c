"""Every way in which the registry file may change, and every way in which it may be broken."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from charon.base.clock import FakeClock
from charon.base.names import Event
from charon.config.registry import load_registry
from charon.discovery import file_watch
from charon.discovery.file_watch import Identity, Pace, observe
from charon.discovery.registry_file import RegistryFile
from tests.discovery.support import Changes, Recorder, spawn

FAST = Pace(poll=0.02, settle=0.01, settle_limit=0.05)

Watch = Callable[..., RegistryFile]


def registry(**services: str) -> str:
    return "services:\n" + "".join(f"  {name}: {address}\n" for name, address in services.items())


def texts(source: RegistryFile) -> dict[str, list[str]]:
    return {name: [str(target.address) for target in targets] for name, targets in source.services().items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(registry(web="10.0.0.1:80"))
    return path


@pytest.fixture
def watch(path: Path, log: Recorder, changes: Changes) -> Iterator[Watch]:
    started: list[RegistryFile] = []

    def start(at: Path = path, **options: object) -> RegistryFile:
        source = RegistryFile(at, log, spawn, pace=FAST, **options)  # type: ignore[arg-type]
        started.append(source)
        source.start(changes)
        return source

    yield start
    for source in started:
        source.stop()


OLD = {"web": ["10.0.0.1:80"]}
NEW = {"web": ["10.0.0.2:80"]}


def test_a_change_takes_effect_within_one_second() -> None:
    pace = Pace()
    assert pace.poll + pace.settle_limit + pace.settle < 1.0


def test_is_loaded_when_start_returns(watch: Watch, changes: Changes, log: Recorder) -> None:
    clock = FakeClock(wall=1_000.0)
    source = watch(clock=clock)
    assert texts(source) == OLD
    assert source.last_reload_successful
    assert source.last_success_time == 1_000.0
    assert changes.calls == []
    assert log.lines == []


def edit_in_place(path: Path) -> None:
    path.write_text(registry(web="10.0.0.2:80"))


def rename_over(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_text(registry(web="10.0.0.2:80"))
    other.rename(path)


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_text(registry(web="10.0.0.2:80"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def delete_and_recreate(path: Path) -> None:
    path.unlink()
    path.write_text(registry(web="10.0.0.2:80"))


@pytest.mark.parametrize("change", [edit_in_place, rename_over, same_size_and_time, delete_and_recreate])
def test_sees(change: Callable[[Path], None], path: Path, watch: Watch, changes: Changes) -> None:
    source = watch()
    change(path)
    changes.until(lambda: texts(source) == NEW)


def test_sees_a_swapped_symlink(tmp_path: Path, watch: Watch, changes: Changes) -> None:
    for name, address in (("one", "10.0.0.1:80"), ("two", "10.0.0.2:80")):
        (tmp_path / name).write_text(registry(web=address))
    link = tmp_path / "link.yaml"
    link.symlink_to("one")
    source = watch(link)
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    changes.until(lambda: texts(source) == NEW)


def test_sees_a_swapped_folder_as_a_config_map_does_it(tmp_path: Path, watch: Watch, changes: Changes) -> None:
    for name, address in (("..1", "10.0.0.1:80"), ("..2", "10.0.0.2:80")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "registry.yaml").write_text(registry(web=address))
    (tmp_path / "..data").symlink_to("..1")
    link = tmp_path / "mounted.yaml"
    link.symlink_to("..data/registry.yaml")
    source = watch(link)
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    shutil.rmtree(tmp_path / "..1")
    changes.until(lambda: texts(source) == NEW)


def test_sees_a_swapped_folder_above_a_plain_path(tmp_path: Path, watch: Watch, changes: Changes) -> None:
    for name, address in (("v1", "10.0.0.1:80"), ("v2", "10.0.0.2:80")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "registry.yaml").write_text(registry(web=address))
    (tmp_path / "current").symlink_to("v1")
    source = watch(tmp_path / "current" / "registry.yaml")
    (tmp_path / "swap").symlink_to("v2")
    (tmp_path / "swap").rename(tmp_path / "current")
    changes.until(lambda: texts(source) == NEW)


def test_appears_after_the_start(tmp_path: Path, watch: Watch, changes: Changes, log: Recorder) -> None:
    late = tmp_path / "folder" / "late.yaml"
    source = watch(late)
    assert texts(source) == {}
    assert not source.last_reload_successful
    assert source.last_success_time == 0.0
    assert str(late) in str(log.wait_for(Event.REGISTRY_RELOAD_FAILED)["problems"])
    late.parent.mkdir()
    late.write_text(registry(web="10.0.0.2:80"))
    changes.until(lambda: texts(source) == NEW)
    assert source.last_reload_successful


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    path.write_text('services:\n  web: "10.0.0')


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def into_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("breakage", [empty, cut, binary, Path.unlink, into_folder, into_pipe, into_loop])
def test_broken_keeps_the_last_good(
    breakage: Callable[[Path], None], path: Path, watch: Watch, changes: Changes, log: Recorder
) -> None:
    source = watch()
    breakage(path)
    event = log.wait_for(Event.REGISTRY_RELOAD_FAILED)
    assert str(path) in str(event["problems"])
    assert event["services_kept"] == 1
    assert not source.last_reload_successful
    assert str(path) in source.problems[0]
    assert texts(source) == OLD
    assert changes.calls == []

    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_text(registry(web="10.0.0.2:80"))
    log.wait_for(Event.REGISTRY_RELOADED)
    changes.until(lambda: texts(source) == NEW)
    assert source.last_reload_successful
    assert source.problems == ()


@pytest.fixture
def as_nobody(watch: Watch) -> Iterator[Path]:
    """A folder that anybody may write to, and the rights of nobody: root reads files of any mode.

    Comes after ``watch``, so that pytest's own folders are made and cleared away with the old rights.
    """
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


def test_unreadable_keeps_the_last_good(watch: Watch, as_nobody: Path, log: Recorder) -> None:
    path = as_nobody / "registry.yaml"
    path.write_text(registry(web="10.0.0.1:80"))
    source = watch(path)
    path.chmod(0)
    assert "Permission denied" in str(log.wait_for(Event.REGISTRY_RELOAD_FAILED)["problems"])
    assert texts(source) == OLD
    path.chmod(0o600)
    assert log.wait_for(Event.REGISTRY_RELOADED)["services"] == 1
    assert source.last_reload_successful


def test_a_failure_is_told_once_for_each_content(path: Path, watch: Watch, log: Recorder) -> None:
    source = watch()
    cut(path)
    log.wait_for(Event.REGISTRY_RELOAD_FAILED)
    os.utime(path)
    assert not source.reload()
    assert len(log.named(Event.REGISTRY_RELOAD_FAILED)) == 1
    path.write_text('services:\n  web: "10.0.0\n  other: {')
    log.wait_for(Event.REGISTRY_RELOAD_FAILED, count=2)


def test_back_to_the_content_in_force_is_a_recovery_without_a_change(
    path: Path, watch: Watch, changes: Changes, log: Recorder
) -> None:
    source = watch()
    good = path.read_text()
    cut(path)
    log.wait_for(Event.REGISTRY_RELOAD_FAILED)
    path.write_text(good)
    event = log.wait_for(Event.REGISTRY_RELOADED)
    assert (event["added"], event["removed"], event["changed_count"]) == ([], [], 0)
    assert source.last_reload_successful
    assert changes.calls == []


def test_a_touched_file_is_not_parsed_again(path: Path, watch: Watch, log: Recorder) -> None:
    parsed: list[Path] = []

    def load(at: Path) -> object:
        parsed.append(at)
        return load_registry(at)

    source = watch(load=load)
    os.utime(path)
    assert source.reload()
    assert len(parsed) == 1
    assert log.lines == []


def test_a_reload_says_what_came_and_went(path: Path, watch: Watch, log: Recorder) -> None:
    path.write_text(registry(web="10.0.0.1:80", gone="10.0.0.3:80", same="10.0.0.4:80"))
    watch()
    path.write_text(registry(web="10.0.0.2:80", came="10.0.0.5:80", same="10.0.0.4:80"))
    event = log.wait_for(Event.REGISTRY_RELOADED)
    assert event["services"] == 3
    assert event["endpoints"] == 3
    assert event["added"] == ["came"]
    assert event["removed"] == ["gone"]
    assert event["changed_count"] == 1


def test_a_surprise_in_the_parser_is_a_failure_and_the_watch_goes_on(
    path: Path, watch: Watch, changes: Changes, log: Recorder
) -> None:
    def load(at: Path) -> object:
        if "surprise" in at.read_text():
            raise RecursionError("too deep")
        return load_registry(at)

    source = watch(load=load)
    path.write_text(registry(surprise="10.0.0.9:80"))
    assert "RecursionError" in str(log.wait_for(Event.REGISTRY_RELOAD_FAILED)["problems"])
    edit_in_place(path)
    changes.until(lambda: texts(source) == NEW)


def test_a_file_written_in_pieces_is_not_read_half_way(
    path: Path, log: Recorder, changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [f"  s{number}: 10.0.0.{number}:80\n" for number in range(5)]

    def observe_while_it_is_written(at: Path) -> Identity:
        if pieces:
            with at.open("a") as file:
                file.write(pieces.pop())
        return observe(at)

    source = RegistryFile(path, log, spawn, pace=Pace(poll=0.01, settle=0.01, settle_limit=60.0))
    source.start(changes)
    monkeypatch.setattr(file_watch, "observe", observe_while_it_is_written)
    changes.until(lambda: len(source.services()) == 6)
    source.stop()
    assert len(changes.calls) == 1
    assert log.named(Event.REGISTRY_RELOAD_FAILED) == []


def test_a_file_that_never_holds_still_is_read_all_the_same(path: Path, watch: Watch, changes: Changes) -> None:
    source = watch()
    busy = True

    def keep_writing() -> None:
        number = 0
        while busy:
            number += 1
            path.with_suffix(".new").write_text(registry(**{f"s{number}": "10.0.0.1:80"}))
            path.with_suffix(".new").rename(path)
            gevent.sleep(0.002)

    writer = spawn("test-writer", keep_writing)
    changes.until(lambda: len(changes.calls) >= 2)
    busy = False
    writer.get()
    last = path.read_text()
    changes.until(lambda: all(name in last for name in source.services()))


def test_reload_reads_at_once(path: Path, watch: Watch) -> None:
    source = watch()
    edit_in_place(path)
    assert source.reload()
    assert texts(source) == NEW
    cut(path)
    assert not source.reload()
    assert source.problems


def test_stop_ends_the_watch(path: Path, watch: Watch) -> None:
    source = watch()
    source.stop()
    edit_in_place(path)
    assert texts(source) == OLD


def test_fifty_thousand_services_do_not_hold_up_the_loop(path: Path, watch: Watch, changes: Changes) -> None:
    source = watch()
    beats = 0

    def beat() -> None:
        nonlocal beats
        while True:
            gevent.sleep(0.005)
            beats += 1

    heart = spawn("test-heart", beat)
    path.write_text(registry(**{f"s{number}": f"10.{number >> 8}.{number & 255}.1:80" for number in range(50_000)}))
    beats = 0
    changes.until(lambda: len(source.services()) == 50_000)
    heart.kill()
    assert beats >= 10
