"""What is generated from the schema: docs/configuration.md, etc/config.yaml, etc/registry.yaml, the JSON Schema.

``scripts/generate`` writes the files; a test fails when they are not what this module says.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from charon.config.reference_text import (
    CONFIG_HEAD,
    LISTENER_KEYS,
    MANUAL_HEAD,
    REGISTRY_EXAMPLE,
    REGISTRY_MANUAL,
    RELOAD,
)
from charon.config.schema.balancing import LoadBalancing
from charon.config.schema.listener import Listener, Traffic
from charon.config.schema.root import Root
from charon.config.schema.section import Section
from charon.config.schema.services import Service
from charon.config.schema.shape import EVERYWHERE, below, block_at, blocks

FIRST: Final = (
    *("listen_port", "protocol", "target_service_name", "target_service_addr", "registry_file", "routes"),
    *("trusted_proxies", "tls", "access", "timeouts", "limits", "rate_limit", "load_balancing", "health_check"),
    *("circuit_breaker", "retry", "logging", "metrics", "admin", "workers", "drain_timeout", "services", "listeners"),
)
"""Keys in the order in which a reader wants them; any other follows."""
ACTIVE: Final = {"listen_port": "8080", "target_service_name": "http-backend", "registry_file": "registry.yaml"}
"""What etc/config.yaml sets; everything else stands there as a comment."""
ALTERNATIVES: Final = frozenset(
    (*(("routes", "*", key) for key in ("path", "path_regex", "services", "sticky", "redirect", "sni")),)
    + (("routes", "*", "rewrite", "regex"), ("routes", "*", "rewrite", "substitution"))
)
"""Keys that exclude others: etc/config.yaml shows them as prose, so that all its settings can be in force at once."""
WIDTH: Final = 112

KeyPath = tuple[str, ...]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of config.yaml."""
    schema = Root.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Charon's config.yaml"}
    return head | {key: value for key, value in schema.items() if key != "title"}


def ordered(block: type[Section]) -> list[tuple[str, FieldInfo]]:
    fields = block.model_fields
    if block is Root:
        names = [*FIRST, *(name for name in fields if name not in FIRST)]
    elif block is Service:
        names = ["addresses", *(name for name in fields if name != "addresses")]
    elif block is Listener:
        names = [name for name in fields if name not in Traffic.model_fields]
    else:
        names = list(fields)
    return [(name, fields[name]) for name in names]


def applies(field: FieldInfo) -> str:
    """``live`` or ``restart``: when a change of the key takes effect."""
    extra = field.json_schema_extra
    live = isinstance(extra, dict) and extra["x-charon-applies"] == "live"
    return "live" if live else "restart"


def default_text(field: FieldInfo) -> str:
    """The default as a user would write it; empty for a block and for a key that must be given."""
    if field.is_required() or field.default_factory is not None:
        return ""
    return yaml_text(field.default)


def yaml_text(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(yaml_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml_text(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_/.:+-]*[A-Za-z0-9_/.+-]", text):
        return text
    return f"'{text}'" if "\\" in text else f'"{text}"'


def kind(field: FieldInfo) -> str:
    """What sort of value a key has, in words."""
    found = below(field.annotation)
    if found is not None:
        many = "map of names to blocks" if get_origin(field.annotation) is dict else "list of blocks"
        one = "block, or a word" if found[0] is LoadBalancing else "block"
        return many if found[1] else one
    title = _own_title(tuple(field.metadata))
    if title is not None:
        return title
    if get_origin(field.annotation) is tuple:
        return "list: " + _title(get_args(field.annotation)[0].__metadata__)
    if get_origin(field.annotation) is dict:
        return "map: " + ", ".join(_title(inner.__metadata__) for inner in get_args(field.annotation))
    raise TypeError("every value of the schema has a kind")


def _title(metadata: tuple[Any, ...]) -> str:
    found = _own_title(metadata)
    assert found is not None, "every value of the schema has a kind"
    return found


def _own_title(metadata: tuple[Any, ...]) -> str | None:
    for item in metadata:
        if isinstance(item, WithJsonSchema) and item.json_schema is not None:
            return str(item.json_schema["title"])
    return None


# etc/config.yaml


def config_yaml() -> str:
    """The commented configuration: prose behind ``##``, settings behind ``# ``."""
    lines = [*_prose(CONFIG_HEAD, ""), *_prose(RELOAD, "")]
    for name, field in ordered(Root):
        lines += ["", *_setting((name,), field, "", ACTIVE)]
    return "\n".join(lines) + "\n"


def _prose(text: str, indent: str) -> list[str]:
    plain = text.replace("`", "")
    return [
        f"{indent}## {line}".rstrip()
        for paragraph in plain.strip().split("\n")
        for line in (textwrap.wrap(paragraph, WIDTH, break_on_hyphens=False) or [""])
    ]


def _setting(path: KeyPath, field: FieldInfo, indent: str, active: dict[str, str]) -> Iterator[str]:
    name = path[-1]
    default = default_text(field)
    facts = [f"Default: {default}." if default not in ("", "[]", "{}", "none") else ""]
    facts.append(f"Takes effect: {applies(field)}.")
    yield from _prose(" ".join([field.description or "", *filter(None, facts)]), indent)
    if name in active:
        yield f'{indent}{name}: "{active[name]}"'
        return
    mark = indent if indent.startswith("#") else "# "
    found = below(field.annotation)
    if found is not None and repeated(path):
        yield f"{indent}## {name}: as at the top level"
        return
    if path in ALTERNATIVES:
        yield f"{indent}## {name}: {_example(field)}"
        return
    if found is None:
        yield f"{mark}{name}: {_example(field)}"
        return
    yield f"{mark}{name}:"
    inner, many = found
    if many and get_origin(field.annotation) is dict:
        yield f"{mark}  my-service:"
    below_path = (*path, EVERYWHERE) if many else path
    here = mark + ("    " if many else "  ")
    start = len(mark) + 2 if many and get_origin(field.annotation) is tuple else None
    for key, below_field in ordered(inner):
        for line in _setting((*below_path, key), below_field, here, {}):
            if start is not None and not line[len(here) :].startswith("##"):
                line = line[:start] + "- " + line[start + 2 :]
                start = None
            yield line


def _example(field: FieldInfo) -> str:
    found = below(field.annotation)
    if found is not None:
        inner = found[0].model_fields.items()
        return yaml_text({key: (below.examples or [below.default])[0] for key, below in inner if below.examples})
    return yaml_text(field.examples[0] if field.examples else field.default)


# docs/configuration.md


def configuration_md() -> str:
    """The manual of config.yaml and registry.yaml."""
    parts = [MANUAL_HEAD, RELOAD, "## Top level", _table((), Root)]
    for path, block in blocks():
        if path and not repeated(path):
            shown = ".".join(path).replace(f".{EVERYWHERE}", "[]" if path[0] != "services" else ".NAME")
            parts += [f"## {shown}", inspect.cleandoc(block.__doc__ or ""), _table(path, block)]
            if block is Listener:
                inherited = ", ".join(f"`{key}`" for key in Traffic.model_fields)
                parts.append(LISTENER_KEYS.format(keys=inherited))
    parts += [REGISTRY_MANUAL, f"```yaml\n{registry_yaml()}```"]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def repeated(path: KeyPath) -> bool:
    """Is this a block that a listener or a service has in common with the top level?"""
    if len(path) <= 2 or path[0] == "routes":
        return False
    return path[0] == "listeners" or block_at(path) is block_at(path[2:])


def _table(path: KeyPath, block: type[Section]) -> str:
    lines = ["| key | meaning | value | default | effect |", "| --- | --- | --- | --- | --- |"]
    for name, field in ordered(block):
        default = "must be given" if field.is_required() else default_text(field)
        shown = f"`{default}`" if default and not field.is_required() else default
        cells = [f"`{name}`", field.description or "", kind(field), shown, applies(field)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def registry_yaml() -> str:
    """The example registry."""
    return REGISTRY_EXAMPLE


def generated() -> dict[str, str]:
    """Every generated file, by its path in the project."""
    return {
        "docs/configuration.md": configuration_md(),
        "etc/config.yaml": config_yaml(),
        "etc/registry.yaml": registry_yaml(),
    }
