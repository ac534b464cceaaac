"""The metrics that PromQL expressions use, and that the pages of the documentation list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/rules.yml"
DASHBOARD = ROOT / "deploy/grafana/gatehouse.json"
_OPERATORS = {"and", "or", "unless", "offset", "bool", "group_left", "group_right"}
# Histograms are documented by the name without these.
_SUFFIX = re.compile(r"_(bucket|count|sum)$")


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> Iterator[str]:
    """Yield the expressions of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric in an expression, with the labels that it is selected by."""
    text = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)|\[[^]]*\]", " ", expression)
    for name, matchers in re.findall(r"([a-zA-Z_:][\w:]*)\b(?!\s*\()\s*(\{[^}]*\})?", _without_strings(text)):
        if name not in _OPERATORS and not re.fullmatch(r"[smhd]|\d.*", name):
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def groupings(expression: str) -> set[str]:
    """Return the labels that an expression aggregates by."""
    return {
        label.strip() for found in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in found.split(",")
    }


def _without_strings(text: str) -> str:
    return re.sub(r'"[^"]*"', '""', text)


def family(metric: str) -> str:
    """Return the name under which a metric is documented."""
    return _SUFFIX.sub("", metric)


def documented() -> dict[str, set[str]]:
    """Return the labels of each metric that the documentation lists."""
    found = {}
    for page in filter(Path.exists, (ROOT / "docs/operations.md", ROOT / "docs/roles.md")):
        text = page.read_text()
        for name, labels in re.findall(r"^\| `((?:gatehouse|rpc)_\w+)` \|([^|]*)\|", text, re.MULTILINE):
            found[name] = set(re.findall(r"`(\w+)`", labels))
    return found
