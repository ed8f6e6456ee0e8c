"""registry.yaml: service names and their addresses. Pure, apart from :func:`load_registry`, which reads the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from charon.base.addresses import Address, parse_upstream, plain_address
from charon.base.errors import ConfigError
from charon.base.units import quoted
from charon.config.document import Document, KeyPath, Value, parse, read_text
from charon.config.plain_registry import changed_part, read_entries, read_plain
from charon.config.problems import nearest, render

HEAVIEST: Final = 65535
"""Largest weight of an address."""

MIXED_SCHEMES: Final = "a service is reached over https:// at all of its addresses, or at none"

_FORMS: Final = "write host:port, a list of them, or addresses: [{address: host:port, weight: 1}]"


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a service as it was written; names are not resolved yet. ``weight`` is relative, from 1. ``tls``:
    it was written ``https://``."""

    address: Address
    weight: int = 1
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """Every service by its name, which keeps its case, with its addresses in the order of the file."""

    services: Mapping[str, tuple[Target, ...]]


def load_registry(path: Path) -> Registry:
    """Read the file. Raises ConfigError with every mistake."""
    return parse_registry(read_text(path), str(path))


class RegistryReader:
    """Reads a registry time and again: of one that is written the plain way, only what has changed since."""

    def __init__(self) -> None:
        self._text = ""
        self._registry: Registry | None = None

    def __call__(self, path: Path) -> Registry:
        """As :func:`load_registry`."""
        text = read_text(path)
        registry = self._changed(text) or _read_plainly(text)
        if registry is None:
            registry = _read_thoroughly(text, str(path))
            self._text, self._registry = "", None
        else:
            self._text, self._registry = text, registry
        return registry

    def _changed(self, text: str) -> Registry | None:
        """The last registry with what is different in ``text``; None where all of it has to be read to be sure."""
        if self._registry is None:
            return None
        before, after = changed_part(self._text, text)
        if 2 * len(after) > len(text):
            return None  # it is less work to read it all
        gone, come = read_entries(before), read_entries(after)
        if gone is None or come is None:
            return None
        document = Document({"services": dict(come)})
        found = _services(document)
        kept = {name: targets for name, targets in self._registry.services.items() if name not in gone}
        if document.problems or not kept or not kept.keys().isdisjoint(found):
            return None
        return Registry(kept | found)


def parse_registry(text: str, source: str = "registry.yaml") -> Registry:
    """``text`` as a registry; ``source`` is the file's name in messages. Raises ConfigError with every mistake."""
    return _read_plainly(text) or _read_thoroughly(text, source)


def _read_plainly(text: str) -> Registry | None:
    plain = read_plain(text)
    if plain is None:
        return None
    document = Document({"services": plain})
    services = _services(document)
    return Registry(services) if not document.problems else None


def _read_thoroughly(text: str, source: str) -> Registry:
    """Whatever way it is written; every mistake with its line."""
    document = parse(text, source)
    services = _services(document)
    if document.problems:
        raise ConfigError(render(source, document.problems))
    return Registry(services)


def _services(document: Document) -> dict[str, tuple[Target, ...]]:
    top = document.value
    if not isinstance(top, dict):
        what = "the file is empty" if top is None else "the file is not a block of keys"
        document.add((), f"{what}; write services: and names with addresses below it")
        return {}
    for key in top:
        if key != "services":
            hint = "; did you mean services?" if nearest(key, ("services",)) else "; the only key is services"
            document.add((key,), "unknown key" + hint)
    services = top.get("services")
    if services is None and "services" not in top:
        document.add((), "the key services is missing")
        return {}
    if not isinstance(services, dict):
        document.add(("services",), "a block of names and addresses is expected here; write {} for no service at all")
        return {}
    return {name: _targets(document, name, value) for name, value in services.items()}


def _targets(document: Document, name: str, value: Value) -> tuple[Target, ...]:
    path: KeyPath = ("services", name)
    if not name or len(name) > 200 or not name.isprintable() or " " in name:
        document.add(path, "this is not a name; at most 200 characters, no spaces")
    if isinstance(value, str):
        single = _target(document, path, value)
        return () if single is None else (single,)
    if isinstance(value, dict):
        for key in value:
            if key != "addresses":
                hint = "; did you mean addresses?" if nearest(key, ("addresses",)) else "; the only key is addresses"
                document.add((*path, key), "unknown key" + hint)
        path = (*path, "addresses")
        value = value.get("addresses")
    if not isinstance(value, list):
        if isinstance(value, str):
            return _targets(document, name, [value])
        document.add(path, f"the service has no address; {_FORMS}, or [] for none")
        return ()
    targets: list[Target] = []
    seen: dict[Address, int] = {}
    for index, item in enumerate(value):
        target = _target(document, (*path, index), item)
        if target is None:
            continue
        if target.address in seen:
            document.add((*path, index), f"{target.address} is given twice; give it once, with a weight")
        seen[target.address] = index
        if targets and target.tls != targets[0].tls:
            document.add((*path, index), MIXED_SCHEMES)
        targets.append(target)
    return tuple(targets)


def _target(document: Document, path: KeyPath, value: Value) -> Target | None:
    if isinstance(value, str):
        return _parsed(document, path, value, 1)
    if not isinstance(value, dict):
        document.add(path, f"there is no address here; {_FORMS}")
        return None
    for key in value:
        if key not in ("address", "weight"):
            meant = nearest(key, ("address", "weight"))
            hint = f"; did you mean {meant}?" if meant else "; the keys are address and weight"
            document.add((*path, key), "unknown key" + hint)
    weight = _weight(document, (*path, "weight"), value["weight"]) if value.get("weight") is not None else 1
    address = value.get("address")
    if not isinstance(address, str):
        document.add((*path, "address"), "an address is expected here; write host:port")
        return None
    return _parsed(document, (*path, "address"), address, weight)


def _weight(document: Document, path: KeyPath, value: Value) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) and 1 <= int(value) <= HEAVIEST:
        return int(value)
    text = quoted(value) if isinstance(value, str) else "this"
    document.add(path, f"{text} is not a weight; write a whole number from 1 to {HEAVIEST}")
    return 1


def _parsed(document: Document, path: KeyPath, text: str, weight: int) -> Target | None:
    plain = plain_address(text)
    if plain is not None:
        return Target(plain, weight)
    try:
        upstream = parse_upstream(text.strip())
    except ValueError as error:
        document.add(path, str(error))
        return None
    return Target(upstream.address, weight, upstream.scheme == "https")
