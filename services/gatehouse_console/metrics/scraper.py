"""Metrics from the endpoints of the services, for systems without a Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from gatehouse.client.upstream import Upstream, UpstreamError
from gatehouse_console.metrics.exposition import parse_samples
from gatehouse_console.metrics.history import History, evaluate
from gatehouse_console.metrics.queries import Grid, Query, Reading

SCRAPE_SECONDS = 5.0
RATE_SECONDS = 60.0


class Scraper:
    """Reads the endpoints again and again, and keeps what charts need.

    Args:
        targets: Endpoint of each service, by its name.
        queries: The queries of all charts.
        seconds: How long samples are kept.
        now: Seconds since the epoch.
    """

    rate_seconds = RATE_SECONDS

    def __init__(
        self,
        targets: Mapping[str, Upstream],
        queries: Sequence[Query],
        seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._targets = targets
        self._samples = list(dict.fromkeys(query.samples for query in queries))
        self._now = now
        max_samples = round((seconds + RATE_SECONDS) / SCRAPE_SECONDS) + 1
        self._histories = {name: History(max_samples, 3 * SCRAPE_SECONDS) for name in targets}
        self._problems: dict[str, str] = {}

    @property
    def name(self) -> str:
        """See MetricsSource."""
        return f"the endpoints of {', '.join(self._targets)}, every {SCRAPE_SECONDS:g} s"

    async def read(self, queries: Sequence[Query], grid: Grid) -> Reading:
        """See MetricsSource."""
        histories = list(self._histories.values())
        lines = {query: evaluate(histories, query, grid, RATE_SECONDS) for query in queries}
        return Reading(lines, [f"{name}: {problem}" for name, problem in self._problems.items()])

    async def run(self) -> None:
        """Read all endpoints every SCRAPE_SECONDS, until it is cancelled."""
        while True:
            await self.scrape()
            await asyncio.sleep(SCRAPE_SECONDS)

    async def scrape(self) -> None:
        """Read all endpoints once."""
        await asyncio.gather(*(self._scrape(name, target) for name, target in self._targets.items()))

    async def _scrape(self, name: str, target: Upstream) -> None:
        try:
            body = await target.get()
            if body is None:
                raise target.error("HTTP 404")
            try:
                samples = await asyncio.to_thread(parse_samples, body.decode(), self._samples)
            except UnicodeDecodeError:
                raise target.error("not UTF-8") from None
            except ValueError as error:
                raise target.error(str(error)) from None
        except UpstreamError as error:
            self._problems[name] = str(error)
        else:
            self._problems.pop(name, None)
            self._histories[name].add(self._now(), samples)
