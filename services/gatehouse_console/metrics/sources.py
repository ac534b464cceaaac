"""Which source of metrics the profile names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from gatehouse.client.profile import Profile
from gatehouse.client.upstream import Upstream
from gatehouse_console.metrics.panels import PANELS, WINDOW_SECONDS
from gatehouse_console.metrics.prometheus import Prometheus
from gatehouse_console.metrics.queries import MetricsSource
from gatehouse_console.metrics.scraper import Scraper


@asynccontextmanager
async def open_source(profile: Profile, http: httpx.AsyncClient) -> AsyncIterator[MetricsSource | None]:
    """Open the source of metrics: a Prometheus, otherwise the endpoints of the services; None without both.

    Args:
        profile: Where they are.
        http: HTTP client.
    """
    if profile.prometheus_url:
        yield Prometheus(Upstream(http, profile.prometheus_url, "`prometheus_url` in the profile"))
    elif profile.metrics:
        targets = {
            name: Upstream(http, url, "`metrics` in the profile") for name, url in profile.metrics.items()
        }
        scraper = Scraper(targets, [panel.query for panel in PANELS], WINDOW_SECONDS)
        reading = asyncio.create_task(scraper.run())
        try:
            yield scraper
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    else:
        yield None
