"""Files of certificates and keys: written as a whole or not at all, keys for their owner alone."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from charon.base.errors import CertificateError

LARGEST: Final = 4 * 1024 * 1024
"""Bytes; the bundle of all public authorities has about a quarter of a megabyte, revocation lists may have more."""

LOCK: Final = ".lock"

PATIENCE: Final = 10.0
"""Seconds; what is done under the lock takes milliseconds."""


class ExposedKey(CertificateError):
    """Others than its owner may read or change a key: whatever is done about it, it is not done in silence."""


def read(path: str | Path) -> bytes:
    """The contents of a file. Raises CertificateError."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CertificateError(f"{path}: this is not an ordinary file")
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise CertificateError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {_why(error)}") from error
    if len(data) > LARGEST:
        raise CertificateError(f"{path}: is larger than {LARGEST // 1024**2} MiB")
    return data


def read_key(path: str | Path) -> bytes:
    """The contents of the file of a key. Raises ExposedKey, CertificateError."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        raise CertificateError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {_why(error)}") from error
    if mode & 0o077:
        raise ExposedKey(f"{path}: others may read or change this key (mode {mode:04o}); chmod 600 {path}")
    return read(path)


def write(path: str | Path, data: bytes, mode: int) -> None:
    """Replace ``path`` by a file with ``data``; whoever reads sees the old one or the new one, also after a crash.

    Raises CertificateError.
    """
    _replace((Path(path), data, mode))


def write_pair(cert_file: str, cert: bytes, key_file: str, key: bytes) -> None:
    """Replace a certificate and its key. Between the two renames they do not fit; whoever loads a pair proves that it
    does and keeps the one before until then. Raises CertificateError."""
    _replace((Path(key_file), key, 0o600), (Path(cert_file), cert, 0o644))


def _replace(*files: tuple[Path, bytes, int]) -> None:
    """Write all ``files`` beside where they belong first: what cannot be written changes none of them, and the renames
    are as near to each other as can be."""
    beside: list[Path] = []
    try:
        for path, data, mode in files:
            with _told(path):
                beside.append(_create(path.with_name(f".{path.name}.{secrets.token_hex(4)}"), data, mode))
        for (path, _, _), new in zip(files, beside, strict=True):
            with _told(path):
                os.rename(new, path)
        for path in {path.parent: path for path, _, _ in files}.values():
            with _told(path):
                _settle(path.parent)
    except CertificateError:
        for new in beside:
            with _told(new):
                new.unlink(missing_ok=True)
        raise


def _create(path: Path, data: bytes, mode: int) -> Path:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)  # whatever the umask took away
            file.write(data)
            file.flush()
            os.fsync(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def _settle(folder: Path) -> None:
    """Have what was renamed in ``folder`` survive a crash."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system says against writing ``path``, as CertificateError."""
    try:
        yield
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written: {_why(error)}") from error


def make_folder(path: str | Path) -> None:
    """Make a folder that only its owner may enter, unless it is there. Raises CertificateError."""
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"{path}: the folder cannot be made: {_why(error)}") from error


@contextmanager
def locked(folder: str | Path, patience: float = PATIENCE) -> Iterator[None]:
    """Alone in ``folder`` among programs that do this; the kernel ends it with its holder.

    Raises CertificateError when it cannot be had, also when another has it for ``patience`` seconds.
    """
    try:
        fd = os.open(Path(folder) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CertificateError(f"{folder}: nothing can be written here: {_why(error)}") from error
    try:
        _take(fd, folder, patience)
        yield
    finally:
        os.close(fd)


def _take(fd: int, folder: str | Path, patience: float) -> None:
    deadline = monotonic() + patience
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= deadline:
                raise CertificateError(f"{folder}: another program has been at work here for too long") from None
            sleep(0.02)  # flock(2) knows no deadline


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe at once as well, so that it can be refused."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
