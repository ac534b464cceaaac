"""The charts of the page Metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gatehouse.app.policy import policy_rows
from gatehouse.rpc import RpcType
from gatehouse_console.metrics.queries import Condition, Kind, Query
from gatehouse_console.text import duration_text, number_text, short_rpc

WINDOW_SECONDS = 300.0
_CALLS = "rpc_server_call_duration_seconds"
# Other systems have the metrics of OpenTelemetry, too, so a shared Prometheus has their calls.
_OWN = Condition("rpc_method", tuple(row.name for row in policy_rows()))
_STREAMS = Condition(
    "rpc_method", tuple(row.name for row in policy_rows() if row.rpc_type is not RpcType.UNARY)
)
_FAILED = Condition("rpc_response_status_code", ("OK",), accept=False)


@dataclass(frozen=True, slots=True)
class Unit:
    """How values are shown.

    Attributes:
        factor: By which values are multiplied.
        text: Returns the product as text.
        about: The unit in words.
    """

    factor: float
    text: Callable[[float], str]
    about: str


PER_MINUTE = Unit(60.0, number_text, "per minute")
COUNT = Unit(1.0, number_text, "")
TIME = Unit(1.0, duration_text, "")


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart with its table.

    Attributes:
        title: What it shows.
        query: Its lines.
        column: What its lines are.
        unit: Unit of its values.
        empty: What it means if there is no line.
        zeros: Whether lines are shown that are always 0.
    """

    title: str
    query: Query
    column: str
    unit: Unit
    empty: str
    zeros: bool = False


def _by_rpc(kind: Kind, metric: str, quantile: float = 0.0) -> Query:
    return Query(kind, metric, ("rpc_method",), (_OWN,), quantile)


_NO_CALLS = "No calls."
PANELS = (
    Panel("Calls", _by_rpc(Kind.RATE, f"{_CALLS}_count"), "RPC", PER_MINUTE, _NO_CALLS),
    Panel(
        "Errors",
        Query(Kind.RATE, f"{_CALLS}_count", ("rpc_method", "rpc_response_status_code"), (_OWN, _FAILED)),
        "RPC and status",
        PER_MINUTE,
        "No call has failed.",
    ),
    Panel("Duration, median", _by_rpc(Kind.QUANTILE, f"{_CALLS}_bucket", 0.5), "RPC", TIME, _NO_CALLS),
    Panel(
        "Duration, 95th percentile", _by_rpc(Kind.QUANTILE, f"{_CALLS}_bucket", 0.95), "RPC", TIME, _NO_CALLS
    ),
    Panel(
        "Denials by reason",
        Query(Kind.RATE, "gatehouse_authorization_denials_total", ("reason",)),
        "Reason",
        PER_MINUTE,
        "No call was denied.",
    ),
    Panel(
        "Verified tokens by source",
        Query(Kind.RATE, "gatehouse_token_verifications_total", ("source",)),
        "Source",
        PER_MINUTE,
        "No token was verified.",
    ),
    Panel(
        "Open watches and other streams",
        Query(Kind.SUM, "gatehouse_rpc_in_flight", ("rpc_method",), (_STREAMS,)),
        "RPC",
        COUNT,
        "No stream was open.",
    ),
    Panel(
        "Database connections in use",
        Query(Kind.SUM, "gatehouse_database_connections", ("service",)),
        "Service",
        COUNT,
        "No service reports its connections.",
        zeros=True,
    ),
    # <part admin>
    Panel(
        "Role changes in the outbox",
        Query(Kind.MAX, "gatehouse_role_outbox_pending"),
        "Replicas",
        COUNT,
        "No service reports its outbox.",
        zeros=True,
    ),
    Panel(
        "Age of the oldest role change",
        Query(Kind.MAX, "gatehouse_role_outbox_oldest_age_seconds"),
        "Replicas",
        TIME,
        "No service reports its outbox.",
        zeros=True,
    ),
    Panel(
        "Failed deliveries of role changes",
        Query(Kind.RATE, "gatehouse_role_outbox_failures_total", ("reason",)),
        "Reason",
        PER_MINUTE,
        "No delivery has failed.",
    ),
    # </part admin>
)


def label_of(labels: tuple[str, ...]) -> str:
    """Return the name of a line."""
    return " ".join(short_rpc(label) for label in labels if label) or "all"
