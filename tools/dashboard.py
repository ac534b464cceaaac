"""The dashboard for Grafana, deploy/grafana/gatehouse.json; `make manifests` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH, _HEIGHT = 12, 8
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart.

    Attributes:
        title: Its title.
        unit: Unit of its values, as Grafana names it.
        queries: PromQL expressions, by their legends.
        limit: Value above which the chart is red, if there is one; below which, if it is negative.
    """

    title: str
    unit: str
    queries: Mapping[str, str]
    limit: float | None = None


PANELS: Sequence[Panel] = (
    Panel("Calls", "reqps", {"{{rpc_method}}": "rpc_method:rpc_server_calls:rate5m"}),
    Panel(
        "Calls by code",
        "reqps",
        {
            "{{rpc_response_status_code}}": (
                "sum by (rpc_response_status_code) (rpc_method_code:rpc_server_calls:rate5m)"
            )
        },
    ),
    Panel(
        "Errors that callers cannot avoid",
        "percentunit",
        {"{{rpc_method}}": "rpc_method:rpc_server_errors:ratio_rate5m"},
        limit=0.05,
    ),
    Panel(
        "Duration, 99th percentile",
        "s",
        {"{{rpc_method}}": "rpc_method:rpc_server_call_duration_seconds:p99_rate5m"},
    ),
    Panel(
        "Duration, median", "s", {"{{rpc_method}}": "rpc_method:rpc_server_call_duration_seconds:p50_rate5m"}
    ),
    Panel("Calls in progress", "short", {"{{rpc_method}}": "sum by (rpc_method) (gatehouse_rpc_in_flight)"}),
    Panel("Denials by reason", "reqps", {"{{reason}}": "reason:gatehouse_authorization_denials:rate5m"}),
    Panel(
        "Denials by RPC",
        "reqps",
        {"{{rpc_method}}": "sum by (rpc_method) (rpc_method_reason:gatehouse_authorization_denials:rate5m)"},
    ),
    Panel(
        "Verified tokens by source",
        "reqps",
        {"{{source}}": "sum by (source) (rate(gatehouse_token_verifications_total[5m]))"},
    ),
    Panel(
        "Issuers: 1 if usable",
        "short",
        {"{{issuer}} {{use}}": "min by (issuer, use) (gatehouse_issuer_available)"},
        limit=-1,
    ),
    Panel(
        "Key fetches by outcome",
        "reqps",
        {"{{outcome}}": "sum by (outcome) (rate(gatehouse_keys_refreshes_total[5m]))"},
    ),
    Panel(
        "Database connections in use, of all",
        "percentunit",
        {"{{instance}}": "gatehouse_database_connections / gatehouse_database_connections_limit"},
        limit=1,
    ),
    Panel(
        "Reads that a standby may answer, by what has",
        "reqps",
        {"{{source}}": "sum by (source) (rate(gatehouse_database_reads_total[5m]))"},
    ),
    # <part admin>
    Panel("Role changes to deliver", "short", {"pending": "max(gatehouse_role_outbox_pending)"}),
    Panel(
        "Oldest role change to deliver",
        "s",
        {"age": "max(gatehouse_role_outbox_oldest_age_seconds)"},
        limit=300,
    ),
    Panel(
        "Deliveries of role changes",
        "ops",
        {
            "{{outcome}}": "sum by (outcome) (rate(gatehouse_role_outbox_deliveries_total[5m]))",
            "failed: {{reason}}": "sum by (reason) (rate(gatehouse_role_outbox_failures_total[5m]))",
        },
    ),
    # </part admin>
    Panel(
        "Days until the certificate expires",
        "short",
        {"{{instance}}": "gatehouse_tls_certificate_expires_in_days"},
        limit=-14,
    ),
    Panel("Dropped log lines", "ops", {"{{instance}}": "rate(gatehouse_log_dropped_total[5m])"}),
    Panel("Processes that are scraped", "short", {"{{job}}": 'sum by (job) (up{job=~"gatehouse.*"})'}),
)


def _thresholds(limit: float | None) -> Mapping[str, Any]:
    if limit is None:
        return {"mode": "absolute", "steps": [{"color": "green", "value": None}]}
    below, above = ("green", "red") if limit > 0 else ("red", "green")
    return {
        "mode": "absolute",
        "steps": [{"color": below, "value": None}, {"color": above, "value": abs(limit)}],
    }


def _chart(number: int, panel: Panel) -> Mapping[str, Any]:
    row, column = divmod(number, 2)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": _thresholds(panel.limit),
                "custom": {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def dashboard() -> str:
    """Return the dashboard as JSON, for Grafana 10 or later."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    content = {
        "uid": "gatehouse",
        "title": "Gatehouse",
        "description": "Needs the recording rules in deploy/prometheus/rules.yml.",
        "tags": ["gatehouse", "grpc", "oauth2"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": [_chart(number, panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(content, indent=2) + "\n"
