"""What a chart asks of a source of metrics, in terms that Prometheus and the console can both compute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

# No metric of the services can be larger; charts could not show it either.
_MAX_VALUE = 1e15


def is_usable(value: float) -> bool:
    """Return whether a chart can show a value."""
    return math.isfinite(value) and abs(value) <= _MAX_VALUE


class Kind(StrEnum):
    """What is computed of a metric."""

    RATE = "rate"
    """Increase of a counter per second."""
    SUM = "sum"
    """Sum of a gauge over all processes."""
    MAX = "max"
    """Largest value of a gauge, where all processes report the same."""
    QUANTILE = "quantile"
    """Quantile of the new observations of a histogram."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Which samples belong to a query.

    Attributes:
        label: Name of a label.
        values: Values of it.
        accept: Whether samples with these values are accepted, or all others.
    """

    label: str
    values: tuple[str, ...]
    accept: bool = True


@dataclass(frozen=True, slots=True)
class Query:
    """One metric by some of its labels.

    Attributes:
        kind: What is computed.
        metric: Name of the samples: that of a histogram with `_bucket`.
        by: Labels that are kept. All samples that agree in them are one line.
        where: What all samples must meet.
        quantile: Which one, from 0 to 1.
    """

    kind: Kind
    metric: str
    by: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    quantile: float = 0.0

    @property
    def samples(self) -> Query:
        """What must be known of the samples: quantiles of a histogram need the same."""
        return replace(self, quantile=0.0, by=(*self.by, "le")) if self.kind is Kind.QUANTILE else self

    def accepts(self, labels: Mapping[str, str]) -> bool:
        """Return whether a sample belongs to the query."""
        return all((labels.get(each.label, "") in each.values) is each.accept for each in self.where)


@dataclass(frozen=True, slots=True)
class Grid:
    """Points of time, evenly spaced.

    Attributes:
        end: The last one, in seconds since the epoch.
        step: Seconds between two.
        count: How many there are.
    """

    end: float
    step: float
    count: int

    @property
    def start(self) -> float:
        """The first one."""
        return self.end - self.step * (self.count - 1)

    @property
    def times(self) -> Sequence[float]:
        """All, in order."""
        return [self.start + self.step * number for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        labels: The values of the labels in `by` of its query.
        values: The value at each point of the grid, None where it is unknown.
    """

    labels: tuple[str, ...]
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """The response of a source.

    Attributes:
        lines: The lines of each query, in any order.
        problems: What could not be read, and what to check.
    """

    lines: Mapping[Query, Sequence[Line]]
    problems: Sequence[str]


class MetricsSource(Protocol):
    """Where metrics are read. Two are here: Prometheus, and the endpoints of the services."""

    @property
    def name(self) -> str:
        """Where it is, in words."""

    @property
    def rate_seconds(self) -> float:
        """Rates and quantiles are those of so many seconds before each point."""

    async def read(self, queries: Sequence[Query], grid: Grid) -> Reading:
        """Return what queries find; a query that fails has no lines."""
