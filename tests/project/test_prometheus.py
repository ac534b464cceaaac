"""Rules and dashboard agree with the metrics; tests/system compares these with what the services expose.

`make lint-deploy` runs the rules in promtool.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from gatehouse.app.services import SERVICES
from tests.support.promql import (
    DASHBOARD,
    RULES,
    dashboard_queries,
    documented,
    family,
    groupings,
    rules,
    selectors,
)
from tools.go_tools import TOOLS

ROOT = Path(__file__).resolve().parents[2]
# Prometheus adds them.
TARGET_LABELS = {"job", "instance"}


# Labels of recorded metrics, by the first part of their names.
LEVELS = {
    "reason": {"reason"},
    "rpc_method": {"rpc_method"},
    "rpc_method_code": {"rpc_method", "rpc_response_status_code"},
    "rpc_method_le": {"rpc_method", "le"},
    "rpc_method_reason": {"rpc_method", "reason"},
}


def known() -> dict[str, set[str]]:
    """Return the labels of every metric that an expression may use."""
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    levels = {name: LEVELS[name.partition(":")[0]] for name in recorded}
    return {"up": TARGET_LABELS} | documented() | levels


@pytest.mark.parametrize(
    "expression", [*(str(rule["expr"]) for rule in rules()), *dashboard_queries()], ids=lambda text: text[:60]
)
def test_expressions_use_metrics_and_labels_that_exist(expression: str) -> None:
    metrics = known()
    used = list(selectors(expression))
    assert used
    available = TARGET_LABELS | ({"le"} if "_bucket" in expression else set())
    for name, labels in used:
        found = metrics.get(name, metrics.get(family(name)))
        assert found is not None, f"{name} does not exist"
        assert labels <= found | TARGET_LABELS, f"{name} has no labels {labels - found}"
        available |= found
    assert groupings(expression) <= available


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        (
            'sum by (a, b) (rate(x_total{c="d}"}[5m])) > 2 and y{e!~"f", g="h"} offset 5m',
            {"x_total": {"c"}, "y": {"e", "g"}},
        ),
        ("avg_over_time(a:b:rate5m[1h] offset 10m) / (z * 0)", {"a:b:rate5m": set(), "z": set()}),
    ],
)
def test_metrics_in_an_expression_are_found(expression: str, found: dict[str, set[str]]) -> None:
    assert dict(selectors(expression)) == found


def test_dashboard_shows_every_metric() -> None:
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    shown: set[str] = set()
    todo = list(dashboard_queries())
    while todo:
        for name, _ in selectors(todo.pop()):
            if name in recorded:
                todo.append(recorded.pop(name))
            shown.add(family(name))
    assert documented().keys() - shown == set()


def test_dashboard_is_a_grafana_dashboard_without_a_fixed_data_source() -> None:
    content = json.loads(DASHBOARD.read_text())
    assert content["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in content["panels"]]
    assert len(set(ids)) == len(ids)
    assert {panel["datasource"]["uid"] for panel in content["panels"]} == {"${datasource}"}


def test_every_alert_is_documented_and_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tests = yaml.safe_load(RULES.with_name("rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts
    page = (ROOT / "docs/operations.md").read_text()
    assert set(re.findall(r"`(Gatehouse\w+)`", page)) == alerts


def test_alert_on_slow_calls_leaves_out_the_streams_and_nothing_else() -> None:
    (slow,) = (rule["expr"] for rule in rules() if rule.get("alert") == "GatehouseSlow")
    pattern = re.search(r'rpc_method!~"([^"]*)"', slow)
    assert pattern is not None
    for spec in SERVICES.values():
        for method in spec.descriptor.methods:
            name = f"{spec.descriptor.full_name}/{method.name}"
            is_stream = method.client_streaming or method.server_streaming
            assert bool(re.fullmatch(pattern[1], name)) is is_stream, name


def test_rules_are_tested_with_the_version_of_prometheus_that_compose_runs() -> None:
    version = re.search(
        r"^PROMETHEUS_VERSION=v3\.(\d+)\.(\d+)(@sha256:\w+)?$", (ROOT / ".env").read_text(), re.MULTILINE
    )
    assert version is not None
    assert TOOLS["promtool"].version == f"v0.3{int(version[1]):02d}.{version[2]}"


def test_prometheus_of_compose_loads_the_rules() -> None:
    (file,) = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["rule_files"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert f"./deploy/prometheus/rules.yml:/etc/prometheus/{file}:ro" in services["prometheus"]["volumes"]
