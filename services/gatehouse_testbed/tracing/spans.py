"""Spans of a trace, their order as a tree, and their JSON in Jaeger's query API (/api/traces)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SPANS = 2_000


@dataclass(frozen=True, slots=True)
class Span:
    """One span.

    Attributes:
        span_id: 16 hexadecimal digits.
        parent_id: Id of its parent, "" if it has none.
        service: `service.name` of the process.
        name: Name of the operation.
        kind: `server`, `client`, `internal`, `producer` or `consumer`.
        start: Microseconds since the epoch.
        duration: Microseconds.
        failed: Whether its status is an error.
        attributes: Its other attributes.
    """

    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    start: int
    duration: int
    failed: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a tree: a span, and the characters that connect it to its parent."""

    span: Span
    guide: str = ""


def tree(spans: Sequence[Span]) -> list[Row]:
    """Return the spans as lines of a tree: each below its parent, siblings by start time.

    A span whose parent is not in `spans` is a root. Spans in a cycle are left out.
    """
    known = {span.span_id for span in spans}
    below: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda s: (s.start, -s.duration)):
        below.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    rows: list[Row] = []
    waiting = [(span, "", "") for span in reversed(below.pop("", []))]
    while waiting:
        span, guide, indent = waiting.pop()
        rows.append(Row(span, guide))
        children = below.pop(span.span_id, [])
        for child in reversed(children):
            is_last = child is children[-1]
            ends = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            waiting.append((child, indent + ends[0], indent + ends[1]))
    return rows


def to_jaeger(trace_id: str, spans: Sequence[Span]) -> dict[str, Any]:
    """Return a trace as Jaeger's query API does."""
    services = list(dict.fromkeys(span.service for span in spans))
    return {
        "traceID": trace_id,
        "spans": [
            {
                "traceID": trace_id,
                "spanID": span.span_id,
                "operationName": span.name,
                "references": [{"refType": "CHILD_OF", "traceID": trace_id, "spanID": span.parent_id}]
                if span.parent_id
                else [],
                "startTime": span.start,
                "duration": span.duration,
                "tags": [
                    *({"key": k, "type": _type(v), "value": v} for k, v in span.attributes.items()),
                    {"key": "span.kind", "type": "string", "value": span.kind},
                    *([{"key": "error", "type": "bool", "value": True}] if span.failed else []),
                ],
                "logs": [],
                "processID": f"p{services.index(span.service) + 1}",
            }
            for span in spans
        ],
        "processes": {f"p{n}": {"serviceName": name, "tags": []} for n, name in enumerate(services, 1)},
    }


def from_jaeger(answer: Mapping[str, Any]) -> list[Span]:
    """Return the spans of a response of Jaeger's query API.

    Raises:
        ValueError: It is not such a response.
    """
    try:
        return [_span(raw, found["processes"]) for found in answer["data"] or () for raw in found["spans"]][
            :MAX_SPANS
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a response of Jaeger's query API: {error}") from None


def _span(raw: Mapping[str, Any], processes: Mapping[str, Any]) -> Span:
    tags = {tag["key"]: tag["value"] for tag in raw["tags"]}
    parents = [r["spanID"] for r in raw["references"] if r["refType"] == "CHILD_OF"]
    return Span(
        span_id=str(raw["spanID"]),
        parent_id=str(parents[0]) if parents else "",
        service=str(processes[raw["processID"]]["serviceName"]),
        name=str(raw["operationName"]),
        kind=str(tags.pop("span.kind", "internal")),
        start=int(raw["startTime"]),
        duration=int(raw["duration"]),
        failed=tags.pop("error", False) is True,
        attributes=tags,
    )


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return {int: "int64", float: "float64"}.get(type(value), "string")
