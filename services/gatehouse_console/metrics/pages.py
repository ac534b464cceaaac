"""The charts of the services."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gatehouse_console.metrics.charts import HEIGHT, WIDTH, draw_chart
from gatehouse_console.metrics.panels import PANELS, WINDOW_SECONDS
from gatehouse_console.metrics.queries import Grid, MetricsSource
from gatehouse_console.site import Site

STEP_SECONDS = 10.0


class MetricPages:
    """The page of metrics.

    Args:
        site: The console.
        source: Where metrics are, None if it is not known.
    """

    def __init__(self, site: Site, source: MetricsSource | None) -> None:
        self._site = site
        self._source = source

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [Route("/metrics", self.show)]

    async def show(self, request: Request) -> Response:
        """Show the charts."""
        self._site.session(request)
        if self._source is None:
            return self._site.page(request, "metrics.html", source=None)
        grid = Grid(time.time(), STEP_SECONDS, round(WINDOW_SECONDS / STEP_SECONDS) + 1)
        reading = await self._source.read([panel.query for panel in PANELS], grid)
        return self._site.page(
            request,
            "metrics.html",
            source=self._source,
            problems=reading.problems,
            charts=[
                draw_chart(panel, reading.lines[panel.query])
                for panel in PANELS
                if panel.query in reading.lines
            ],
            end=grid.end,
            minutes=round(WINDOW_SECONDS / 60),
            width=WIDTH,
            height=HEIGHT,
        )
