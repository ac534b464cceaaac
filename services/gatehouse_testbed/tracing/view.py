"""A trace as a tree of its spans, with the time of each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gatehouse.client.traces.spans import Row, Span

_BAR = 26
_SERVICE_COLORS = ("cyan", "magenta", "green", "yellow", "blue")
# The first of these attributes that a span has is shown.
_NOTES = ("error.type", "db.query.text", "url.path", "oauth.mode")
_MAX_NOTE = 34


def trace_view(rows: Sequence[Row]) -> Group:
    """Draw a trace: one line per span, with its duration and its status."""
    spans = [row.span for row in rows]
    start = min(span.start for span in spans)
    total = max(1, max(span.start + span.duration for span in spans) - start)
    services = list(dict.fromkeys(span.service for span in spans))
    colors = {name: _SERVICE_COLORS[n % len(_SERVICE_COLORS)] for n, name in enumerate(services)}
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", show_edge=False)
    table.add_column("span", no_wrap=True, overflow="ellipsis", ratio=5)
    table.add_column("", no_wrap=True, width=_BAR)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=3, style="dim")
    for row in rows:
        span, color = row.span, colors[row.span.service]
        table.add_row(
            Text.assemble((row.guide, "dim"), (_label(span), "bold red" if span.failed else color)),
            _bar(span, start, total, color),
            f"{span.duration / 1000:.1f}",
            _code(span),
            _note(span),
        )
    legend = Text.assemble(
        *(part for name in services for part in ((f"■ {name}", colors[name]), ("   ", ""))),
        (f"{len(spans)} spans, {total / 1000:.1f} ms", "dim"),
    )
    return Group(Padding(legend, (0, 0, 1, 0)), table)


def _label(span: Span) -> str:
    # gatehouse.users.v1.UserService/GetUser without its package.
    path, slash, method = span.name.rpartition("/")
    name = f"{path.rpartition('.')[2]}/{method}" if slash else span.name
    return f"{name} (client)" if slash and span.kind == "client" else name


def _bar(span: Span, start: int, total: int, color: str) -> Text:
    first = round((span.start - start) / total * (_BAR - 1))
    length = max(1, min(_BAR - first, round(span.duration / total * _BAR)))
    after = _BAR - first - length
    return Text.assemble(("·" * first, "dim"), ("█" * length, color), ("·" * after, "dim"))


def _code(span: Span) -> Text:
    code = span.attributes.get(
        "rpc.response.status_code", span.attributes.get("http.response.status_code", "")
    )
    return Text(str(code), "red" if span.failed or str(code) not in {"OK", "200", ""} else "green")


def _note(span: Span) -> str:
    for name in _NOTES:
        if name in span.attributes:
            text = " ".join(str(span.attributes[name]).split())
            return text if len(text) <= _MAX_NOTE else text[: _MAX_NOTE - 1] + "…"
    return ""
