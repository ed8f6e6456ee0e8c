"""The configuration as it is in force, for people to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from charon.config.effective import effective_json
from charon.config.load import load_config
from charon.config.schema.listener import Listener
from charon.config.schema.root import Root

CONFIG = """\
registry_file: registry.yaml
circuit_breaker: {failure_threshold: 7}
timeouts: {connect: 250ms}
limits: {max_body_bytes: 1MiB}
health_check: {type: http, expected_status: [200-299, 404]}
services:
  db: {addresses: ["db:5432"], health_check: {interval: 1m}}
listeners:
  - address: ":8080"
    routes:
      - path_prefix: /a
        service: a
        headers: {X-Api-Key: open-sesame, X-Version: "2"}
        request_headers: {set: {Authorization: "Bearer ${TOKEN}", X-Team: web}, add: {Cookie: k=open-sesame}}
    target_service_name: web
  - {name: pg, address: "127.0.0.1:5432", protocol: tcp, target_service_name: db, timeouts: {idle: 1h}}
"""


def effective(folder: Path, text: str = CONFIG) -> Any:
    file = folder / "config.yaml"
    file.write_text(text)
    return json.loads(effective_json(load_config(file, {"TOKEN": "open-sesame"})))


def test_listeners_have_all_that_they_inherit_and_the_rest_is_there_once(tmp_path: Path) -> None:
    shown = effective(tmp_path)
    web, pg = shown["listeners"]
    assert (web["name"], web["address"]) == ("http-8080", ":8080")
    assert (web["timeouts"]["connect"], web["timeouts"]["idle"]) == (0.25, 90)
    assert (pg["timeouts"]["connect"], pg["timeouts"]["idle"]) == (0.25, 3600)
    assert web["limits"]["max_body_bytes"] == 1048576
    assert set(web) == set(Listener.model_fields)
    assert set(shown) == set(Root.model_fields) - {"listen_port"} - (set(Listener.model_fields) - {"limits"})
    assert shown["circuit_breaker"] == {**shown["circuit_breaker"], "failure_threshold": 7, "open_duration": 20}
    assert shown["health_check"]["expected_status"] == ["200-299", "404"]
    assert shown["services"] == {"db": {"addresses": ["db:5432"], "health_check": {"interval": 60}}}
    assert shown["registry_file"] == str(tmp_path / "registry.yaml")


def test_secrets_are_masked(tmp_path: Path) -> None:
    route = effective(tmp_path)["listeners"][0]["routes"][0]
    assert route["headers"] == {"X-Api-Key": "***", "X-Version": "2"}
    assert route["request_headers"] == {"set": {"Authorization": "***", "X-Team": "web"}, "add": {"Cookie": "***"}}
    assert "sesame" not in json.dumps(effective(tmp_path))
    assert "path_regex" not in route, "a route shows what it says"
