"""What is shipped beside the metrics: manual, alerts and dashboard, which use nothing that is not there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from charon.telemetry.families import FAMILIES
from charon.telemetry.manual import metrics_md

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging/prometheus/charon.rules.yml"
DASHBOARD = ROOT / "packaging/grafana/charon.json"
OF_PROMETHEUS = {"job", "instance", "le"}


def test_the_manual_of_metrics_is_up_to_date() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics_md(), "run scripts/generate"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    found = [rule["expr"] for rule in rules()]
    found += [target["expr"] for panel in panels() for target in panel["targets"]]
    return found


def family_of(name: str) -> str:
    for suffix in ("", "_bucket", "_count", "_sum"):
        if name.endswith(suffix) and name.removesuffix(suffix) in FAMILIES:
            return name.removesuffix(suffix)
    raise AssertionError(f"there is no metric {name}")


def metrics_in(text: str) -> set[str]:
    return {family_of(name) for name in re.findall(r"\bcharon_\w+", text)}


def test_alerts_and_dashboard_use_only_metrics_that_exist() -> None:
    for text in (*texts(rules()), *texts(json.loads(DASHBOARD.read_text()))):
        metrics_in(text)
    assert all(metrics_in(expression) for expression in expressions())


def test_alerts_and_dashboard_use_only_labels_that_exist() -> None:
    for expression in expressions():
        known = {label for name in metrics_in(expression) for label in FAMILIES[name].labels} | OF_PROMETHEUS
        used = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        used |= set(re.findall(r'(\w+)=~?"', expression))
        assert used <= known, expression
    for panel in panels():
        for target in panel["targets"]:
            known = {label for name in metrics_in(target["expr"]) for label in FAMILIES[name].labels} | OF_PROMETHEUS
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known, panel["title"]


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in metrics_in(target["expr"])}
    assert set(FAMILIES) - shown == set(), f"they have no panel in {DASHBOARD}"


def test_every_alert_is_tried_both_ways() -> None:
    tests = yaml.safe_load(RULES.with_suffix(".test.yml").read_text())["tests"]
    for fires in (True, False):
        tried = {
            one["alertname"] for test in tests for one in test["alert_rule_test"] if bool(one["exp_alerts"]) is fires
        }
        assert tried == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("arguments", [("check", "rules", RULES.name), ("test", "rules", "charon.rules.test.yml")])
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool (Debian: prometheus) is not installed")
    ran = subprocess.run([promtool, *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
