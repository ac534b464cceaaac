"""A chart as paths of an SVG, with the rows of the table beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gatehouse_console.metrics.panels import Panel, label_of
from gatehouse_console.metrics.queries import Line
from gatehouse_console.text import shorten

# Size of the SVG, which is stretched to the width of the page; the style sheet has a style for each line.
WIDTH, HEIGHT = 600.0, 150.0
MAX_LINES = 8
_MAX_LABEL_CHARS = 80
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart.

    Attributes:
        label: Its name.
        path: The path of its SVG.
        now: Its last value, as text.
        highest: Its largest value, as text.
    """

    label: str
    path: str
    now: str
    highest: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        panel: What it shows.
        curves: Its lines, the one with the largest value first.
        hidden: How many lines are left out.
        ticks: Labels of the vertical axis, from the top to the bottom.
        summary: The picture in words.
    """

    panel: Panel
    curves: Sequence[Curve]
    hidden: int
    ticks: Sequence[str]
    summary: str


def draw_chart(panel: Panel, lines: Sequence[Line]) -> Chart:
    """Return the chart of a panel."""
    known = [(line, _highest(line)) for line in lines if any(value is not None for value in line.values)]
    shown = sorted(
        ((line, highest) for line, highest in known if highest > 0 or panel.zeros),
        key=lambda each: (-each[1], each[0].labels),
    )
    unit = panel.unit
    top = nice_ceiling(max((highest for _, highest in shown), default=0.0) * unit.factor)
    curves = [
        Curve(
            label=shorten(label_of(line.labels), _MAX_LABEL_CHARS),
            path=_path([None if value is None else value * unit.factor / top for value in line.values]),
            now="-" if line.values[-1] is None else unit.text(line.values[-1] * unit.factor),
            highest=unit.text(highest * unit.factor),
        )
        for line, highest in shown[:MAX_LINES]
    ]
    summary = f"{panel.title}{f' {unit.about}' if unit.about else ''}"
    if curves:
        summary += f"; highest: {curves[0].label} with {curves[0].highest}"
    ticks = [unit.text(top), unit.text(top / 2), unit.text(0.0)]
    return Chart(panel, curves, max(0, len(shown) - MAX_LINES), ticks, summary)


def nice_ceiling(value: float) -> float:
    """Return a number for the end of an axis: the next one of 1, 2, 2.5, 5, 10, 20 and so on."""
    if value <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return next((step * size for step in _STEPS if step * size >= value), 10 * size)


def _highest(line: Line) -> float:
    return max(value for value in line.values if value is not None)


def _path(parts: Sequence[float | None]) -> str:
    """Return a path with a gap wherever the value is unknown. A value between two gaps is a short dash."""
    step = WIDTH / max(1, len(parts) - 1)
    words = []
    before: float | None = None
    for place, part in enumerate(parts):
        if part is not None:
            point = f"{place * step:.1f} {HEIGHT - min(1.0, max(0.0, part)) * HEIGHT:.1f}"
            words.append(f"L{point}" if before is not None else f"M{point}h.1")
        before = part
    return "".join(words)
