"""A trace as a waterfall: where each span is on the time axis, and where a call goes to another service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatehouse.client.traces.spans import Row, Span, Trace, tree
from gatehouse_console.text import duration_text, short_rpc, shorten

MAX_ROWS = 300
MAX_ATTRIBUTES = 50
# Width of the time axis in the SVG of each bar, whose real width is that of the page.
AXIS = 1000.0
_MIN_WIDTH = 4.0
_MAX_INDENT = 12
_INDENT_PIXELS = 14
_COLORS = 6
_MAX_NAME_CHARS, _MAX_NOTE_CHARS, _MAX_VALUE_CHARS = 120, 60, 500
_STATUS_ATTRIBUTES = ("rpc.response.status_code", "http.response.status_code")
_ERROR = "error.type"
# The first of these attributes that a span has is shown beside its name.
_NOTES = ("db.query.text", "url.path", "oauth.mode")


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the waterfall.

    Attributes:
        name: Name of the span, without the package of an RPC.
        full_name: Its whole name.
        service: The service that made it.
        color: Number of the color of that service.
        kind: `server`, `client`, `internal`, `producer` or `consumer`.
        comes_from: The service of its parent, if that is another one.
        indent: How far it is indented, in pixels.
        x: Its start on the axis.
        width: Its length on the axis.
        duration: How long it took.
        after: How long after the start of the trace it began.
        status: Its status code, "" if it has none.
        error: Why it failed or was refused, "" if it was not.
        note: One of its attributes that says more than its name.
        attributes: Its attributes.
    """

    name: str
    full_name: str
    service: str
    color: int
    kind: str
    comes_from: str
    indent: int
    x: float
    width: float
    duration: str
    after: str
    status: str
    error: str
    note: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A trace as a picture.

    Attributes:
        title: Name of the call.
        bars: Its spans, each below its parent.
        hidden: How many spans are left out.
        services: Each service with the number of its color.
        ticks: Labels of the axis, evenly spaced.
        duration: How long all took.
        started_at: Seconds since the epoch.
        status: Status code of the call.
        failed: How many spans have failed.
    """

    title: str
    bars: Sequence[Bar]
    hidden: int
    services: Mapping[str, int]
    ticks: Sequence[str]
    duration: str
    started_at: float
    status: str
    failed: int


def draw(trace: Trace) -> Waterfall:
    """Return the waterfall of a trace."""
    colors = {name: number % _COLORS for number, name in enumerate(trace.services)}
    rows = tree(trace.spans)
    return Waterfall(
        title=shorten(short_rpc(trace.root.name), _MAX_NAME_CHARS),
        bars=[_bar(row, trace, colors) for row in rows[:MAX_ROWS]],
        hidden=len(trace.spans) - min(len(rows), MAX_ROWS),
        services=colors,
        ticks=[duration_text(trace.duration * part / 4 / 1e6) for part in range(5)],
        duration=duration_text(trace.duration / 1e6),
        started_at=trace.start / 1e6,
        status=status_of(trace.root),
        failed=trace.failed,
    )


def status_of(span: Span) -> str:
    """Return the status code of a span, "" if it has none."""
    return shorten(str(_first(span, _STATUS_ATTRIBUTES)), _MAX_NAME_CHARS)


def _note(span: Span) -> str:
    text = " ".join(str(_first(span, _NOTES)).split())
    return text.removeprefix(f"{span.name} ")  # SQL begins with the name of its span


def _first(span: Span, names: Sequence[str]) -> object:
    return next((span.attributes[name] for name in names if name in span.attributes), "")


def _bar(row: Row, trace: Trace, colors: Mapping[str, int]) -> Bar:
    span, parent, start = row.span, row.parent, trace.start
    width = min(AXIS, max(_MIN_WIDTH, span.duration / trace.duration * AXIS))
    return Bar(
        name=shorten(short_rpc(span.name), _MAX_NAME_CHARS),
        full_name=shorten(span.name, _MAX_VALUE_CHARS),
        service=shorten(span.service, _MAX_NAME_CHARS),
        color=colors[span.service],
        kind=shorten(span.kind, _MAX_NAME_CHARS),
        comes_from=shorten(parent.service, _MAX_NAME_CHARS)
        if parent is not None and parent.service != span.service
        else "",
        indent=min(row.depth, _MAX_INDENT) * _INDENT_PIXELS,
        x=round(min((span.start - start) / trace.duration * AXIS, AXIS - width), 1),
        width=round(width, 1),
        duration=duration_text(span.duration / 1e6),
        after=duration_text((span.start - start) / 1e6),
        status=status_of(span),
        error=shorten(str(span.attributes.get(_ERROR, "error" if span.failed else "")), _MAX_NAME_CHARS),
        note=shorten(_note(span), _MAX_NOTE_CHARS),
        attributes={
            shorten(name, _MAX_NAME_CHARS): shorten(str(value), _MAX_VALUE_CHARS)
            for name, value in sorted(span.attributes.items())[:MAX_ATTRIBUTES]
        },
    )
