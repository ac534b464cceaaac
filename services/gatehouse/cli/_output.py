"""What commands print: tables on a terminal, otherwise plain text; no character makes printing fail."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gatehouse.settings import environment, wants_color

_NARROW_COLUMN = 24


# What tables, trees and checks are drawn with.
_ASCII = dict(zip("─│├└✓✗■█·", "-||`+x##.", strict=True)) | {"…": "..."}


def set_up_streams() -> None:
    """Replace characters that the encoding of the output lacks by ASCII, instead of failing."""
    codecs.register_error("gatehouse", _to_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="gatehouse")


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    parts = [_ASCII.get(char) or char.encode("ascii", "backslashreplace").decode() for char in missing]
    return "".join(parts), error.end


def is_colored() -> bool:
    """Return whether to print with colors; see wants_color."""
    return wants_color(terminal=sys.stdout.isatty())


def is_plain() -> bool:
    """Return whether to print without colors and without boxes, as in a pipe and on a dumb terminal."""
    dumb = not sys.stdout.isatty() or environment().get("TERM") in {"dumb", "unknown"}
    return dumb and not is_colored()


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Print a table. No value is cut.

    On a terminal that is too narrow for the table, each row is a name with the other values below it. Plain
    text has one line per row, with aligned columns.

    Args:
        header: Names of the columns.
        rows: Values of each row.
        styles: Styles of values on a terminal, such as `bold red`, by value.
    """
    widths = [max(map(len, column)) for column in zip(*(header, *rows), strict=True)]
    if is_plain():
        for row in ([name.upper() for name in header], *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            sys.stdout.write("  ".join(cells).rstrip() + "\n")
        return
    from rich.console import Console  # noqa: PLC0415 - only commands that print a table need it
    from rich.padding import Padding  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(force_terminal=True) if is_colored() else Console(color_system=None)
    borders = 3 * len(header) + 1
    if widths[0] + sum(min(width, _NARROW_COLUMN) for width in widths[1:]) + borders > console.width:
        for name, *values in rows:
            console.print(Text(name, "bold", overflow="fold"))
            texts = [Text(value, styles.get(value, "")) for value in values if value]
            console.print(Padding(Text("  ", overflow="fold").join(texts), (0, 0, 0, 4)))
        return
    table = Table(Column(header[0], no_wrap=True), *(Column(name, overflow="fold") for name in header[1:]))
    for row in rows:
        table.add_row(*(Text(value, styles.get(value, "")) for value in row))
    console.print(table)


def discard_output() -> None:
    """Discard further output, after the reader of standard output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
