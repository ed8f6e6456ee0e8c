"""config.yaml to a :class:`Config`, or to every mistake in it at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from charon.base.errors import ConfigError
from charon.config.admin_socket import default_admin_socket
from charon.config.checks import findings, named_services, static_names
from charon.config.document import Document, KeyPath, parse, read_text
from charon.config.expand import expander
from charon.config.listeners import effective_listeners
from charon.config.problems import key_path, render
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root
from charon.config.schema.shape import block_at, unknown_key
from charon.config.tls_checks import source_findings

DEFAULT_REGISTRY: Final = "registry.yaml"

ROUNDS: Final = 4
"""How often what is wrong is left out and the rest looked at again; one round finds all but what a mistake hid."""


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration without mistakes.

    ``file`` is where it was read from, ``root`` what it says, ``listeners`` what that comes to for each listener
    (overrides merged, names given). Paths are absolute. ``registry_file`` is None where no registry is used.
    ``log_file`` is None for standard output. ``workers`` is None for as many as there are CPUs.
    """

    file: Path
    root: Root
    listeners: tuple[Listener, ...]
    registry_file: Path | None
    admin_socket: Path
    log_file: Path | None
    read_token_file: Path | None
    write_token_file: Path | None

    @property
    def folder(self) -> Path:
        """Where relative paths begin."""
        return self.file.parent

    @property
    def workers(self) -> int | None:
        return self.root.workers

    @property
    def worker_count(self) -> int:
        """``workers`` as a number: at least 1, at most what this process may use when it is ``auto``."""
        return self.root.workers or len(os.sched_getaffinity(0))

    @property
    def drain_timeout(self) -> float:
        """Seconds."""
        return self.root.drain_timeout


@dataclass(slots=True)
class Reading:
    """What came of reading a configuration: ``config`` is None when ``problems`` (printable lines) holds any."""

    config: Config | None = None
    problems: list[str] = field(default_factory=list)
    registry_file: Path | None = None
    """Known even when there are mistakes elsewhere, so that both files can be checked at once."""
    registry_key: str = ""
    """``FILE:LINE: registry_file``, the line being that of the key that makes the registry necessary."""


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read ``path``. Raises ConfigError with every mistake."""
    reading = read_config(path, environ)
    if reading.config is None:
        raise ConfigError(reading.problems)
    return reading.config


def read_config(path: Path, environ: Mapping[str, str]) -> Reading:
    """Read ``path``; mistakes of every kind are in the result, none is raised."""
    try:
        document = parse(read_text(path), str(path), expander(environ))
    except ConfigError as error:
        return Reading(problems=error.problems)
    if not isinstance(document.value, dict):
        what = "the file is empty" if document.value is None else "the file is not a block of keys"
        return Reading(problems=[f"{path}:1: {what}; write keys such as target_service_name: NAME"])
    valid = _validated(document)
    reading = Reading()
    if valid.root is not None:
        listeners = effective_listeners(valid.root)
        found = [*findings(valid.root, listeners), *source_findings(valid.root, listeners, path.absolute().parent)]
        for finding in found:
            if not valid.concludes_from_dropped(finding.because):
                other = f" {key_path(valid.in_file(finding.other))}" if finding.other else ""
                document.add(valid.in_file(finding.path), finding.text + other)
        config = _config(path, valid.root, listeners, environ)
        if not valid.concludes_from_dropped((("registry_file",),)):
            reading.registry_file = config.registry_file
            reading.registry_key = f"{path}:{_registry_line(document, valid, listeners)}: registry_file"
        if not document.problems:
            reading.config = config
    reading.problems = render(str(path), document.problems)
    return reading


@dataclass(slots=True)
class _Validated:
    """The schema's view of what is right in a document. ``dropped`` are the paths of what is not."""

    root: Root | None
    dropped: set[KeyPath]
    kept: dict[KeyPath, list[int]]
    """For each list that lost items: where in the file those that are left stand."""

    def in_file(self, path: KeyPath) -> KeyPath:
        """The path in the file of what ``root`` has at ``path``."""
        found: KeyPath = ()
        for step in path:
            indices = self.kept.get(found)
            found = (*found, indices[step] if indices is not None and isinstance(step, int) else step)
        return found

    def concludes_from_dropped(self, because: tuple[KeyPath, ...]) -> bool:
        """Is one of these paths at, inside or around something that was dropped?"""
        paths = [self.in_file(path) for path in because]
        return any(bad[: len(path)] == path[: len(bad)] for path in paths for bad in self.dropped)


def _validated(document: Document) -> _Validated:
    """The schema's view of the document; what it refuses is added to the document's problems and left out."""
    result = _Validated(None, set(document.broken), {})
    rest = deepcopy(document.value)
    for _ in range(ROUNDS):
        result.kept.clear()
        try:
            result.root = Root.model_validate(_compact(rest, (), result.kept))
            break
        except ValidationError as error:
            for mistake in error.errors(include_url=False, include_input=False):
                path = result.in_file(tuple(step for step in mistake["loc"] if step != "[key]"))
                missing = mistake["type"] == "missing"
                if not (missing and path in document.broken) and path not in result.dropped:
                    document.add(path, _text(mistake["type"], path, mistake["msg"]))
                result.dropped.add(path)
                _drop(rest, path[:-1] if missing else path)
    return result


_GONE: Final = object()


def _drop(value: Any, path: KeyPath) -> None:
    """Mark the key or item at ``path`` as gone, unless something around it is gone already."""
    for step in path[:-1]:
        if value is _GONE:
            return
        value = value[step]
    if path and value is not _GONE:
        value[path[-1]] = _GONE


def _compact(value: Any, path: KeyPath, kept: dict[KeyPath, list[int]]) -> Any:
    """``value`` without what is gone; ``kept`` learns which items of a list are left."""
    if isinstance(value, dict):
        return {key: _compact(below, (*path, key), kept) for key, below in value.items() if below is not _GONE}
    if isinstance(value, list):
        indices = [index for index, below in enumerate(value) if below is not _GONE]
        if len(indices) < len(value):
            kept[path] = indices
        return [_compact(value[index], (*path, index), kept) for index in indices]
    return value


def _text(kind: str, path: KeyPath, message: str) -> str:
    if kind == "extra_forbidden":
        return unknown_key(path)
    if kind == "missing":
        return "this key must be given"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        block = block_at(path)
        keys = f", such as {', '.join(list(block.model_fields)[:3])}" if block else ""
        return f"a block of keys is expected here{keys}"
    if kind == "tuple_type":
        return "a list is expected here"
    return message


def _config(path: Path, root: Root, listeners: tuple[Listener, ...], environ: Mapping[str, str]) -> Config:
    folder = path.absolute().parent
    registry = root.registry_file
    if "registry_file" not in root.model_fields_set:
        static = static_names(root)
        needed = any(name not in static for name, _ in named_services(root, listeners))
        registry = DEFAULT_REGISTRY if needed else None
    admin = root.admin
    return Config(
        file=path.absolute(),
        root=root,
        listeners=listeners,
        registry_file=None if registry is None else folder / registry,
        admin_socket=folder / admin.socket if admin.socket else default_admin_socket(environ),
        log_file=None if root.logging.file is None else folder / root.logging.file,
        read_token_file=None if admin.read_token_file is None else folder / admin.read_token_file,
        write_token_file=None if admin.write_token_file is None else folder / admin.write_token_file,
    )


def _registry_line(document: Document, valid: _Validated, listeners: tuple[Listener, ...]) -> int:
    assert valid.root is not None
    if "registry_file" in valid.root.model_fields_set:
        return document.line(("registry_file",))
    static = static_names(valid.root)
    named = [path for name, path in named_services(valid.root, listeners) if name not in static]
    return min((document.line(valid.in_file(path)) for path in named), default=1)
