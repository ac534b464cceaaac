"""What the services counted during the tour."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.table import Table

from gatehouse_testbed.tour.context import Visit
from gatehouse_testbed.tour.metrics import Figures, fetch_figures

_HEADS = ("calls", "OK", "refused", "cache hits", "introspections", "key fetches")


async def figures(visit: Visit) -> None:
    """Shows calls, cache hits and introspections by service, and refusals by reason."""
    if not visit.profile.metrics:
        visit.report.note("left out: the profile has no metrics")
        return
    after = await fetch_figures(visit.http, visit.profile.metrics)
    found = {name: now.since(visit.before.get(name, Figures())) for name, now in after.items()}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("service")
    for head in _HEADS:
        table.add_column(head, justify="right")
    rows = {name: _row(counted) for name, counted in found.items()}
    for name, row in rows.items():
        table.add_row(name, *(f"{number:,}" for number in row))
    table.add_section()
    table.add_row("all", *(f"{sum(column):,}" for column in zip(*rows.values(), strict=True)), style="bold")
    visit.report.show(table)
    denials = sum((counted.denials for counted in found.values()), Counter())
    visit.report.note("refused: " + ", ".join(f"{n} {reason}" for reason, n in denials.most_common()))


def _row(counted: Figures) -> tuple[int, ...]:
    return (
        counted.calls.total(),
        counted.calls["OK"],
        counted.denials.total(),
        counted.verifications["cache"],
        counted.verifications["introspection"],
        counted.key_fetches.total(),
    )
