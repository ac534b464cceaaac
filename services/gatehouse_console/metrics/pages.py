"""The charts of the services."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gatehouse_console.site import Site


class MetricPages:
    """The page of metrics.

    Args:
        site: The console.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [Route("/metrics", self.show)]

    async def show(self, request: Request) -> Response:
        """Show the charts."""
        self._site.session(request)
        return self._site.page(request, "metrics.html")
