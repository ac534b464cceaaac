"""Metrics from the HTTP API of a Prometheus (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from gatehouse.client.upstream import Upstream, UpstreamError
from gatehouse_console.metrics.queries import Condition, Grid, Kind, Line, Query, Reading, is_usable

MAX_LINES = 200
# Twice the longest interval at which a Prometheus usually reads its targets.
RATE_SECONDS = 120.0


class Prometheus:
    """A Prometheus that scrapes the services.

    Args:
        upstream: The server.
    """

    rate_seconds = RATE_SECONDS

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    @property
    def name(self) -> str:
        """See MetricsSource."""
        return f"Prometheus at {self._upstream.url}"

    async def read(self, queries: Sequence[Query], grid: Grid) -> Reading:
        """See MetricsSource."""
        answers = await asyncio.gather(*(self._lines(query, grid) for query in queries))
        lines = {
            query: answer
            for query, answer in zip(queries, answers, strict=True)
            if not isinstance(answer, UpstreamError)
        }
        problems = [str(answer) for answer in answers if isinstance(answer, UpstreamError)]
        return Reading(lines, list(dict.fromkeys(problems)))

    async def _lines(self, query: Query, grid: Grid) -> Sequence[Line] | UpstreamError:
        asked = {
            "query": promql(query),
            "start": f"{grid.start:.3f}",
            "end": f"{grid.end:.3f}",
            "step": f"{grid.step:g}",
        }
        try:
            body = await self._upstream.get("/api/v1/query_range", asked)
            found = _Answer.model_validate_json(body or b"").data.result
        except UpstreamError as error:
            return error
        except ValidationError:
            return self._upstream.error("not a Prometheus")
        return [_line(series, query, grid) for series in found[:MAX_LINES]]


def promql(query: Query) -> str:
    """Return a query in PromQL."""
    where = ", ".join(map(_matcher, query.where))
    samples, window = f"{query.metric}{{{where}}}", f"[{RATE_SECONDS:g}s]"
    by = ", ".join(query.samples.by)
    match query.kind:
        case Kind.RATE:
            return f"sum by ({by}) (rate({samples}{window}))"
        case Kind.QUANTILE:
            return f"histogram_quantile({query.quantile:g}, sum by ({by}) (rate({samples}{window})))"
        case Kind.SUM | Kind.MAX:
            return f"{query.kind} by ({by}) ({samples})"


def _matcher(condition: Condition) -> str:
    # Names of RPCs and of status codes need no escapes in a regular expression but for the dot.
    pattern = "|".join(value.replace(".", "[.]") for value in condition.values)
    return f'{condition.label}{"=~" if condition.accept else "!~"}"{pattern}"'


class _Series(BaseModel):
    metric: Mapping[str, str]
    values: list[tuple[float, float]]


class _Data(BaseModel):
    kind: Literal["matrix"] = Field(alias="resultType")
    result: list[_Series]


class _Answer(BaseModel):
    data: _Data


def _line(series: _Series, query: Query, grid: Grid) -> Line:
    values: list[float | None] = [None] * grid.count
    for time, value in series.values:
        place = (time - grid.start) / grid.step
        if math.isfinite(place) and 0 <= round(place) < grid.count and is_usable(value):
            values[round(place)] = value
    return Line(tuple(series.metric.get(name, "") for name in query.by), values)
