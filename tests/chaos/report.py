"""The results as lines, as JSON and as a table in a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from tests.chaos.model import Guarantee, Row

HEADINGS = ("fault", "calls", "failed", "detected", "recovered", "lost", "twice", "guarantees")
_WIDTHS = (28, 6, 34, 9, 10, 5, 6, 0)
_START = "<!-- results: written by `make chaos-record` -->"
_END = "<!-- end of results -->"


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    if row.skipped:
        return (row.fault, "", "", "", "", "", "", f"skipped: {row.skipped}")
    held = sum(guarantee.held for guarantee in row.guarantees)
    failed = ", ".join(f"{count} {code}" for code, count in row.failures.items()) or "0"
    return (
        row.fault,
        str(row.calls),
        failed,
        _seconds(row.detection),
        _seconds(row.recovery),
        str(row.lost),
        str(row.doubled),
        f"{held} of {len(row.guarantees)} held" + (f" in trial {row.trials}" if row.trials > 1 else ""),
    )


def line(row: Row | Sequence[str]) -> str:
    """Return a row, or the headings, as a line; below it the guarantees that were broken."""
    values = cells(row) if isinstance(row, Row) else row
    text = "  ".join(value.ljust(width) for value, width in zip(values, _WIDTHS, strict=True)).rstrip()
    broken = [] if not isinstance(row, Row) else [p for p in row.guarantees if not p.held]
    return "\n".join([text, *(f"  BROKEN: {_text(guarantee)}" for guarantee in broken)])


def summary(rows: Sequence[Row], seconds: float) -> str:
    """Return the last lines: how many guarantees held, and how to try one fault again."""
    guarantees = [guarantee for row in rows for guarantee in row.guarantees]
    broken = [row.fault for row in rows if not row.held]
    skipped = sum(bool(row.skipped) for row in rows)
    held = sum(guarantee.held for guarantee in guarantees)
    calls, lost, doubled = (sum(getattr(row, name) for row in rows) for name in ("calls", "lost", "doubled"))
    counts = (
        f"{len(rows) - skipped} faults, {skipped} skipped, {calls} calls, {seconds:.0f} s: "
        f"{held} of {len(guarantees)} guarantees held, {lost} acknowledged writes lost, "
        f"{doubled} applied twice"
    )
    lines = [counts]
    if broken:
        lines.append(f"broken in: {', '.join(broken)}")
    lines.append(f"one fault alone: make chaos FAULT={(broken or [rows[0].fault])[0]}")
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> str:
    """Return the results as JSON."""
    return json.dumps([asdict(row) | {"held": row.held} for row in rows], indent=2) + "\n"


def page(old: str, rows: Sequence[Row]) -> str:
    """Return a page with the table between its two comments replaced."""
    before, _, rest = old.partition(_START)
    _, _, after = rest.partition(_END)
    table = [
        "| " + " | ".join((HEADINGS[0], "what happens", *HEADINGS[1:])) + " |",
        "|---|---|---:|---|---:|---:|---:|---:|---|",
        *("| " + " | ".join((f"`{c[0]}`", row.summary, *c[1:])) + " |" for row in rows for c in [cells(row)]),
    ]
    return "\n".join([before + _START, "", *table, "", _END]) + after


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _text(guarantee: Guarantee) -> str:
    return f"{guarantee.text} ({guarantee.measured})" if guarantee.measured else guarantee.text
