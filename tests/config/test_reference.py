"""The generated files are what the schema says, and they are true."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from charon.config.reference import FIRST, config_yaml, generated, json_schema, registry_yaml
from charon.config.registry import parse_registry
from charon.config.schema.root import Root
from charon.config.schema.shape import blocks
from tests.config.support import Folder
from tests.config.test_load import FULL, SHORT

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", generated())
def test_the_files_are_up_to_date(name: str) -> None:
    assert (PROJECT / name).read_text(encoding="utf-8") == generated()[name], "run scripts/generate"


def test_the_commented_configuration_loads(folder: Folder) -> None:
    config = folder.load(config_yaml())
    assert config.listeners[0].target_service_name == "http-backend"
    assert "http-backend" in parse_registry(registry_yaml()).services


def test_every_commented_setting_is_valid(folder: Folder) -> None:
    text = re.sub(r"^# ", "", config_yaml(), flags=re.MULTILINE).replace("\nlisten_port:", "\n# listen_port:")
    config = folder.load(text)
    assert config.root.model_fields_set >= {"listeners", "services", "routes", "timeouts", "trusted_proxies"}
    assert config.root.model_fields_set >= {"rate_limit", "circuit_breaker", "health_check", "retry", "load_balancing"}


def test_every_key_is_described() -> None:
    for path, block in blocks():
        for name, field in block.model_fields.items():
            assert (field.description or "").rstrip().endswith("."), (path, name)
    assert set(FIRST) <= set(Root.model_fields)


SCHEMA = json_schema()


def complaints(value: Any, schema: dict[str, Any]) -> list[str]:
    """What a JSON Schema validator would say: the keywords that the schema uses, and no other."""
    known = {"$ref", "$defs", "$schema", "additionalProperties", "anyOf", "const", "default", "description", "enum"}
    known |= {"examples", "items", "maximum", "minimum", "pattern", "properties", "required", "title", "type"}
    known |= {"propertyNames", "x-charon-applies"}
    assert set(schema) <= known
    found: list[str] = []
    if "$ref" in schema:
        found += complaints(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "anyOf" in schema and all(complaints(value, one) for one in schema["anyOf"]):
        found.append(f"{value!r} is none of {schema['title']}")
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    if kind in ("integer", "number"):
        right = isinstance(value, (int, float) if kind == "number" else int) and not isinstance(value, bool)
        if not right or not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            found.append(f"{value!r} is not {schema}")
    elif kind and not isinstance(value, types[kind]):
        found.append(f"{value!r} is not {kind}")
    if value not in schema.get("enum", [value]) or schema.get("const", value) != value:
        found.append(f"{value!r} is not {schema}")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{value!r} is not {schema['pattern']}")
    if isinstance(value, dict) and kind == "object":
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        found += [f"{key} is missing" for key in schema.get("required", []) if key not in value]
        for key, below in value.items():
            if key in properties:
                found += complaints(below, properties[key])
            elif others is False:
                found.append(f"{key} is unknown")
            elif isinstance(others, dict):
                found += complaints(below, others)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        found += [line for item in value for line in complaints(item, schema["items"])]
    return found


RESILIENT = """
load_balancing: ring_hash
services: {a: {load_balancing: {algorithm: ewma, hash_on: "header:X-User"}, timeouts: {connect: 1s}}}
health_check: {expected_status: [200, 204-299, "404"], passive_failures: 0}
circuit_breaker: {error_rate: 50%}
retry: {"on": [connect_failure, gateway-error, 429], budget: {percent: 10, min: 1}}
routes:
- {services: {a: 1, b: 0}, sticky: "cookie:c", headers: {X-A: "*"}, rate_limit: {key: "header:X-A"}}
- {redirect: {status: 308, scheme: https}, rewrite: {regex: a, substitution: b}}
"""


@pytest.mark.parametrize(
    "text", [SHORT, FULL, RESILIENT, config_yaml(), "listen_port: ${PORT:-80}\ntimeouts: {idle: '${X}'}"]
)
def test_the_schema_accepts_what_loads(text: str) -> None:
    import yaml

    assert complaints(yaml.safe_load(text), SCHEMA) == []


@pytest.mark.parametrize(
    "value",
    [
        {"listn_port": 1},
        {"listen_port": 70000},
        {"timeouts": {"idle": "banana"}},
        {"timeouts": {"idle": -1}},
        {"limits": {"max_header_bytes": "64 Ki"}},
        {"listeners": [{}]},
        {"listeners": [{"address": ":1", "protocol": "udp"}]},
        {"routes": {}},
        {"routes": [{"path_prefix": "a"}]},
        {"logging": {"level": "loud"}},
        {"services": {"a": {"addresses": "b"}}},
        {"load_balancing": "fastest"},
        {"load_balancing": {"algorithm": "fastest"}},
        {"circuit_breaker": {"error_rate": "half"}},
        {"health_check": {"expected_status": ["200-"]}},
        {"retry": {"on": ["always"]}},
        {"rate_limit": {"key": "cookie:a"}},
        {"routes": [{"redirect": {"status": 304}}]},
        {"listeners": [{"address": ":1", "retry": {}}]},
    ],
)
def test_the_schema_refuses_what_does_not_load(value: dict[str, Any]) -> None:
    assert complaints(value, SCHEMA)


def test_the_schema_is_json_of_the_named_draft() -> None:
    assert json.loads(json.dumps(SCHEMA))["$schema"] == "https://json-schema.org/draft/2020-12/schema"
