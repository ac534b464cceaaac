"""The table: on a terminal, as plain text, and as the recorded page."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata

from rich.table import Table

from benchmarks.cases import Row

HEADINGS = ("measured", "server", "median", "CPU us/call", "core busy", "ratio", "CPU ratio", "bound", "held")


def cells(row: Row) -> tuple[str, ...]:
    """Returns what stands in a line of the table."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        row.case,
        row.server,
        row.value,
        number(row.cpu, ".0f"),
        number(row.busy, ".0%"),
        number(row.ratio, ".2f"),
        number(row.cpu_ratio, ".2f"),
        row.bound,
        {None: "", True: "yes", False: "no"}[row.held],
    )


def table(rows: Sequence[Row]) -> Table:
    """Makes the table for a terminal."""
    made = Table(title="Speed, side by side", title_justify="left")
    for number, heading in enumerate(HEADINGS):
        made.add_column(heading, justify="left" if number < 2 or heading in {"bound", "held"} else "right")
    for number, row in enumerate(rows):
        style = {None: "", True: "green", False: "red"}[row.held]
        ends = number + 1 == len(rows) or rows[number + 1].case != row.case
        made.add_row(*cells(row), style=style, end_section=ends)
    return made


def plain(rows: Sequence[Row]) -> str:
    """Writes the table as plain text."""
    lines = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def machine() -> str:
    """Says what it was measured on, as far as it matters."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("grpcio", "uvloop", "psycopg"))
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores ({_processor()}), "
        f"Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - one file of the kernel
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def page(rows: Sequence[Row], command: str) -> str:
    """Writes the recorded page."""
    lines = [
        "# Results",
        "",
        f"Made by `{command}`; [README.md](README.md) says what is measured and how to read it.",
        "",
        f"{machine()}.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|---|---|" + "---:|" * 5 + "---|---|",
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)
