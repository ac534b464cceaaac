"""Spans of a trace, and their order as a tree."""

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
class Trace:
    """The spans of one trace id, at least one.

    Attributes:
        trace_id: 32 hexadecimal digits.
        spans: In any order.
    """

    trace_id: str
    spans: Sequence[Span]

    @property
    def root(self) -> Span:
        """The first span without a parent in the trace."""
        known = {span.span_id for span in self.spans}
        roots = [span for span in self.spans if span.parent_id not in known]
        return min(roots or self.spans, key=lambda span: span.start)

    @property
    def start(self) -> int:
        """Microseconds since the epoch."""
        return min(span.start for span in self.spans)

    @property
    def duration(self) -> int:
        """Microseconds from the first start to the last end, at least 1."""
        return max(1, max(span.start + span.duration for span in self.spans) - self.start)

    @property
    def services(self) -> Sequence[str]:
        """The services that it passes, in order of time."""
        return list(dict.fromkeys(span.service for span in sorted(self.spans, key=lambda span: span.start)))

    @property
    def failed(self) -> int:
        """How many of its spans have failed."""
        return sum(span.failed for span in self.spans)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a tree.

    Attributes:
        span: The span.
        guide: The characters that connect it to its parent.
        depth: How many spans are above it.
        parent: The span above it.
    """

    span: Span
    guide: str = ""
    depth: int = 0
    parent: Span | None = None


def tree(spans: Sequence[Span]) -> list[Row]:
    """Return the spans as lines of a tree: each below its parent, siblings by start time.

    A span whose parent is not in `spans` is a root. Spans in a cycle are left out.
    """
    known = {span.span_id for span in spans}
    below: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda s: (s.start, -s.duration)):
        below.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    rows: list[Row] = []
    waiting = [(Row(span), "") for span in reversed(below.pop("", []))]
    while waiting:
        row, indent = waiting.pop()
        rows.append(row)
        children = below.pop(row.span.span_id, [])
        for child in reversed(children):
            is_last = child is children[-1]
            ends = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            waiting.append((Row(child, indent + ends[0], row.depth + 1, row.span), indent + ends[1]))
    return rows
