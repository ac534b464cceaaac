"""How the demo looks: a console with colour on a terminal and plain text elsewhere, and pictures as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.tracing.spans import Row, Span

WIDTH = 110
_BAR = 26
_SERVICE_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")
# Attributes worth a line of a tree, the first that is there.
_NOTES = ("error.type", "db.query.text", "url.path", "oauth.mode")
_MAX_NOTE = 34

# rich's own template fetches a font from a host on the net.
_SVG = """<svg class="{unique_id}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def make_console(stream: TextIO | None = None, *, record: bool = False) -> Console:
    """Makes the console of a command.

    Args:
        stream: Where it writes; standard output when None.
        record: Whether what is written can be saved with `save_svg`.
    """
    console = Console(file=stream, record=record, highlight=False)
    if record or not console.is_terminal:
        console.width = WIDTH
    return console


def save_svg(console: Console, file: Path, title: str) -> None:
    """Saves what a recording console has shown.

    Raises:
        DemoError: The file cannot be written.
    """
    text = console.export_svg(title=title, code_format=_SVG, unique_id="gatehouse", clear=False)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DemoError(f"{file}: cannot be written ({error.strerror}); name another file") from None


def commands(console: Console, lines: Sequence[str]) -> None:
    """Prints commands so that they can be pasted: never wrapped, nothing before them but blanks."""
    for line in lines:
        command, _, comment = line.partition("  # ")
        text = Text("  ").append(command, "bold")
        if comment:
            text.append(f"  # {comment}", "dim")
        console.print(text, soft_wrap=True)


def trace_view(rows: Sequence[Row]) -> Group:
    """Draws a trace: a tree of spans, and when each ran."""
    spans = [row.span for row in rows]
    start = min(span.start for span in spans)
    whole = max(1, max(span.start + span.duration for span in spans) - start)
    services = list(dict.fromkeys(span.service for span in spans))
    colours = {name: _SERVICE_COLOURS[n % len(_SERVICE_COLOURS)] for n, name in enumerate(services)}
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", show_edge=False)
    table.add_column("span", no_wrap=True, overflow="ellipsis", ratio=5)
    table.add_column("", no_wrap=True, width=_BAR)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=3, style="dim")
    for row in rows:
        span, colour = row.span, colours[row.span.service]
        table.add_row(
            Text.assemble((row.guide, "dim"), (_label(span), "bold red" if span.failed else colour)),
            _bar(span, start, whole, colour),
            f"{span.duration / 1000:.1f}",
            _code(span),
            _note(span),
        )
    head = Text.assemble(
        *(part for name in services for part in ((f"■ {name}", colours[name]), ("   ", ""))),
        (f"{len(spans)} spans, {whole / 1000:.1f} ms", "dim"),
    )
    return Group(Padding(head, (0, 0, 1, 0)), table)


def _label(span: Span) -> str:
    # A package before the service says nothing here: gatehouse.users.v1.UserService/GetUser.
    path, slash, method = span.name.rpartition("/")
    name = f"{path.rpartition('.')[2]}/{method}" if slash else span.name
    return f"{name} (client)" if slash and span.kind == "client" else name


def _bar(span: Span, start: int, whole: int, colour: str) -> Text:
    first = round((span.start - start) / whole * (_BAR - 1))
    length = max(1, min(_BAR - first, round(span.duration / whole * _BAR)))
    after = _BAR - first - length
    return Text.assemble(("·" * first, "dim"), ("█" * length, colour), ("·" * after, "dim"))


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
