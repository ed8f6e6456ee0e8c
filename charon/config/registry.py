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
from charon.config import availability
from charon.config.document import Document, KeyPath, Value, parse, read_text
from charon.config.plain_registry import read_plain
from charon.config.problems import nearest, render

HEAVIEST: Final = 65535
"""Largest weight of an address."""

_FORMS: Final = "write host:port, a list of them, or addresses: [{address: host:port, weight: 1}]"


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a service as it was written; names are not resolved yet. ``weight`` is relative, from 1."""

    address: Address
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Registry:
    """Every service by its name, which keeps its case, with its addresses in the order of the file."""

    services: Mapping[str, tuple[Target, ...]]


def load_registry(path: Path) -> Registry:
    """Read the file. Raises ConfigError with every mistake."""
    return parse_registry(read_text(path), str(path))


def parse_registry(text: str, source: str = "registry.yaml") -> Registry:
    """``text`` as a registry; ``source`` is the file's name in messages. Raises ConfigError with every mistake."""
    plain = read_plain(text)
    if plain is not None:
        document = Document({"services": plain})
        services = _services(document)
        if not document.problems:
            return Registry(services)
    document = parse(text, source)  # whatever is wrong is told with its line
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
    refusal = availability.scheme_refusal(upstream)
    if refusal:
        document.add(path, refusal)
        return None
    return Target(upstream.address, weight)
