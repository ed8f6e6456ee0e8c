"""Files of certificates and keys."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from charon.base.errors import CertificateError
from charon.identity import files
from charon.identity.files import LOCK, ExposedKey, locked, read, read_key, write, write_pair


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("old")
    before = os.open(path, os.O_RDONLY)
    mask = os.umask(0o777)
    try:
        write(path, b"new", 0o600)
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.read(before, 10) == b"old", "whoever had it open goes on reading the old one"
    os.close(before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.pem"
    path.write_text("old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CertificateError, match=r"key\.pem: cannot be written: no space left"):
        write(path, b"new", 0o600)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_a_pair_is_replaced_only_when_both_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_pair(str(cert), b"old cert", str(key), b"old key")
    synced = []

    def full(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CertificateError, match=r"cert\.pem: cannot be written: no space left"):
        write_pair(str(cert), b"new cert", str(key), b"new key")
    assert (cert.read_bytes(), key.read_bytes()) == (b"old cert", b"old key"), "they still belong together"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cert.pem", "key.pem"]
    write_pair(str(cert), b"new cert", str(key), b"new key")
    assert (cert.read_bytes(), key.read_bytes()) == (b"new cert", b"new key")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (cert, key)] == [0o644, 0o600]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_a_key_is_for_its_owner_alone(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    path.write_text("secret")
    path.chmod(0o400)
    assert read_key(path) == b"secret"
    path.chmod(mode)
    with pytest.raises(ExposedKey, match=rf"others may read or change this key \(mode 0{mode:o}\); chmod 600 {path}"):
        read_key(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("pipe", "this is not an ordinary file"),
        (".", "cannot be read"),
        ("no", "there is no such file"),
    ):
        with pytest.raises(CertificateError, match=why):
            read(tmp_path / name)


def test_one_program_at_a_time(tmp_path: Path) -> None:
    with open(tmp_path / LOCK, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CertificateError, match="another program has been at work here"), locked(tmp_path, 0):
            pass
    with locked(tmp_path, 0), open(tmp_path / LOCK, "rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(tmp_path, 0):
        pass
