"""What a process has reported during the last minutes, and the rates and quantiles of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from gatehouse_console.metrics.exposition import Samples
from gatehouse_console.metrics.queries import Grid, Kind, Line, Query

_COUNTERS = (Kind.RATE, Kind.QUANTILE)
Labels = tuple[str, ...]


class History:
    """The samples of one process. A counter is kept as its increase since the first sample.

    Args:
        max_samples: How many are kept.
        max_age: Seconds for which the newest sample is the present value.
    """

    def __init__(self, max_samples: int, max_age: float) -> None:
        self._max_age = max_age
        self._times: deque[float] = deque(maxlen=max_samples)
        self._samples: deque[Samples] = deque(maxlen=max_samples)
        self._last: Samples = {}

    def add(self, time: float, samples: Samples) -> None:
        """Keep what was read at a time, which is later than all before."""
        self._samples.append({query: self._known(query, values) for query, values in samples.items()})
        self._times.append(time)
        self._last = samples

    def _known(self, query: Query, values: Mapping[Labels, float]) -> dict[Labels, float]:
        if query.kind not in _COUNTERS:
            return dict(values)
        last = self._last.get(query, {})
        totals = self._samples[-1].get(query, {}) if self._samples else {}
        known = {}
        for labels, value in values.items():
            # What appears later was 0 before, and what is smaller than before began again.
            before = last.get(labels, 0.0) if self._samples else value
            known[labels] = totals.get(labels, 0.0) + (value - before if value >= before else value)
        return totals | known

    def at(self, query: Query, time: float) -> Mapping[Labels, float] | None:
        """Return the values at a time; None if they are unknown."""
        place = bisect_right(self._times, time) - 1
        if place < 0 or time - self._times[place] > self._max_age:
            return None
        return self._samples[place].get(query, {})

    def increase(self, query: Query, time: float, seconds: float) -> Mapping[Labels, float] | None:
        """Return how much counters have grown during the seconds before a time; None if it is unknown."""
        now = self.at(query, time)
        if now is None:
            return None
        place = max(0, bisect_right(self._times, time - seconds) - 1)
        before = self._samples[place].get(query, {})
        return {labels: value - before.get(labels, 0.0) for labels, value in now.items()}


def evaluate(histories: Iterable[History], query: Query, grid: Grid, rate_seconds: float) -> list[Line]:
    """Return the lines of a query over all processes."""
    points: list[Mapping[Labels, float | None]] = []
    for time in grid.times:
        if query.kind in _COUNTERS:
            found = [history.increase(query.samples, time, rate_seconds) for history in histories]
        else:
            found = [history.at(query.samples, time) for history in histories]
        values = _combine([each for each in found if each is not None], query.kind)
        match query.kind:
            case Kind.RATE:
                points.append({labels: value / rate_seconds for labels, value in values.items()})
            case Kind.QUANTILE:
                points.append(_quantiles(values, query.quantile))
            case Kind.SUM | Kind.MAX:
                points.append(values)
    names = dict.fromkeys(labels for point in points for labels in point)
    return [Line(labels, [point.get(labels) for point in points]) for labels in names]


def _combine(found: Sequence[Mapping[Labels, float]], kind: Kind) -> dict[Labels, float]:
    values: dict[Labels, float] = {}
    for each in found:
        for labels, value in each.items():
            before = values.get(labels)
            if before is None:
                values[labels] = value
            else:
                values[labels] = max(before, value) if kind is Kind.MAX else before + value
    return values


def _quantiles(buckets: Mapping[Labels, float], quantile: float) -> dict[Labels, float | None]:
    histograms: dict[Labels, list[tuple[float, float]]] = {}
    for (*labels, bound), count in buckets.items():
        try:
            histograms.setdefault(tuple(labels), []).append((float(bound), count))
        except ValueError:  # not a bucket
            continue
    return {labels: quantile_of(sorted(each), quantile) for labels, each in histograms.items()}


def quantile_of(buckets: Sequence[tuple[float, float]], quantile: float) -> float | None:
    """Return a quantile of a histogram as Prometheus does; None if it has no observations.

    Args:
        buckets: Upper bounds in order, the last one infinite, and how many observations are not greater.
        quantile: From 0 to 1.
    """
    total = buckets[-1][1]
    if total <= 0:
        return None
    rank = quantile * total
    place = next(place for place, (_, count) in enumerate(buckets) if count >= rank)
    (low, below), (bound, count) = buckets[place - 1] if place else (0.0, 0.0), buckets[place]
    # In the last bucket, there is nothing to interpolate with.
    return low if bound == float("inf") else low + (bound - low) * (rank - below) / max(count - below, 1e-9)
