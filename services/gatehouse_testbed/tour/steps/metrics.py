"""Show what the services counted during the tour."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.table import Table

from gatehouse_testbed.tour.context import TourContext
from gatehouse_testbed.tour.metrics import CALLS, DENIALS, KEY_FETCHES, VERIFICATIONS, Metrics, fetch_metrics

_HEADINGS = ("calls", "OK", "denied", "other", "cache hits", "introspections", "key fetches")


async def show_metrics(context: TourContext) -> None:
    """Show what each service counted since the start of the tour, and denials by reason."""
    if not context.profile.metrics:
        context.report.note("skipped: the profile has no metrics")
        return
    after = await fetch_metrics(context.http, context.profile.metrics)
    counted = {name: metrics - context.metrics.get(name, Counter()) for name, metrics in after.items()}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("service")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for name, metrics in counted.items():
        table.add_row(name, *_cells(metrics))
    total: Metrics = sum(counted.values(), Counter())
    table.add_section()
    table.add_row("total", *_cells(total), style="bold")
    context.report.show(table)
    denials = [f"{number} {reason}" for (name, reason), number in total.most_common() if name == DENIALS]
    context.report.note(f"denied: {', '.join(denials)}")


def _cells(metrics: Metrics) -> list[str]:
    def total(wanted: str) -> int:
        return sum(number for (name, _), number in metrics.items() if name == wanted)

    calls, ok, denied = total(CALLS), metrics[CALLS, "OK"], total(DENIALS)
    numbers = (
        calls,
        ok,
        denied,
        calls - ok - denied,
        metrics[VERIFICATIONS, "cache"],
        metrics[VERIFICATIONS, "introspection"],
        total(KEY_FETCHES),
    )
    return [f"{number:,}" for number in numbers]
