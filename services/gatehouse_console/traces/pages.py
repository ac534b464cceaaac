"""The list of the last calls, and the waterfall of one."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gatehouse_console.site import Site


class TracePages:
    """The pages of traces.

    Args:
        site: The console.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [Route("/traces", self.list)]

    async def list(self, request: Request) -> Response:
        """List the last calls."""
        session = self._site.session(request)
        return self._site.page(request, "traces.html", calls=self._site.calls.of(session))
