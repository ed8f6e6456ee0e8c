"""The configuration as it is in force, for people to look at: all defaults filled in, and nothing secret in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from charon.base.addresses import Address, Upstream
from charon.config.load import Config
from charon.config.schema.listener import Traffic
from charon.config.schema.routes import Route
from charon.config.schema.section import Section
from charon.config.schema.services import Service

MASK: Final = "***"

_SECRET_NAME: Final = re.compile(r"auth|cookie|token|secret|passw|credential|api[-_]?key|signature", re.IGNORECASE)
"""Names of header fields whose values give access to something."""

_ALWAYS_SECRET: Final = frozenset({"otlp_headers"})
"""Maps of header fields that are there to prove who one is."""

_HEADER_MAPS: Final = frozenset({"headers", "set", "add"})

_PASSWORD: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def effective_json(config: Config) -> bytes:
    """``config`` as one JSON object with the keys of config.yaml. Times are in seconds, sizes in bytes.

    ``listeners`` holds every listener with what it inherits from the top level, which is therefore not repeated
    there, but for ``limits``, some of which are for endpoints. Routes and services show only what they say themselves;
    the rest they take from where they stand.
    """
    root = config.root
    shown = {
        key: _plain(getattr(root, key), key)
        for key in type(root).model_fields
        if key == "limits" or (key not in Traffic.model_fields and key not in ("listen_port", "listeners"))
    }
    shown["registry_file"] = None if config.registry_file is None else str(config.registry_file)
    shown["workers"] = config.worker_count
    shown["admin"]["socket"] = str(config.admin_socket)
    shown["listeners"] = [_plain(listener, "") for listener in config.listeners]
    return json.dumps(shown, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _plain(value: Any, key: str, *, said: bool = False) -> Any:
    """``value`` as JSON has it; ``key`` is the name that it stands under. ``said``: only what the file itself says."""
    if isinstance(value, Section):
        said = said or isinstance(value, Route | Service)
        only = value.model_fields_set if said else type(value).model_fields
        fields = [name for name in type(value).model_fields if name in only]
        return {name: _plain(getattr(value, name), name, said=said) for name in fields}
    if isinstance(value, Mapping):
        return {str(name): _masked(str(name), below, key, said=said) for name, below in value.items()}
    if isinstance(value, Address | Upstream):
        return str(value)
    if isinstance(value, tuple | list):
        if len(value) == 2 and all(isinstance(number, int) for number in value):  # a range of statuses
            return str(value[0]) if value[0] == value[1] else f"{value[0]}-{value[1]}"
        return [_plain(item, key, said=said) for item in value]
    if isinstance(value, str):
        return _PASSWORD.sub(MASK, value)
    return value


def _masked(name: str, value: Any, key: str, *, said: bool) -> Any:
    if key in _ALWAYS_SECRET or (key in _HEADER_MAPS and _SECRET_NAME.search(name)):
        return MASK
    return _plain(value, name, said=said)
