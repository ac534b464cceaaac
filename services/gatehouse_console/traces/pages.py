"""The list of the last calls, and the waterfall of one with its log lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gatehouse.client.traces.jaeger import Jaeger, parse_trace_id
from gatehouse.client.traces.spans import Span, Trace
from gatehouse.client.upstream import Upstream, UpstreamError
from gatehouse.settings import ConfigurationError
from gatehouse_console.forms import read_query
from gatehouse_console.problems import Problem
from gatehouse_console.site import Site
from gatehouse_console.traces.log_lines import read_log_lines
from gatehouse_console.traces.waterfall import draw, status_of

LATEST = 30
# Services export their spans in batches, so those of a call arrive after its response.
_PAUSES = (0.3, 0.6, 1.1)
_SETTING = "`traces_url` in the profile"


class TracePages:
    """The pages of traces.

    Args:
        site: The console.
        http: HTTP client.
    """

    def __init__(self, site: Site, http: httpx.AsyncClient) -> None:
        self._site = site
        url = site.profile.traces_url
        self._jaeger = Jaeger(Upstream(http, url, _SETTING)) if url else None

    def routes(self) -> Sequence[Route]:
        """Return the routes."""
        return [Route("/traces", self.list), Route("/traces/{trace_id}", self.show)]

    async def list(self, request: Request) -> Response:
        """List the last calls; with the parameter `id`, open a trace."""
        session = self._site.session(request)
        wanted = read_query(request).get("id", "").strip()
        if wanted:
            return RedirectResponse(f"{self._site.origin.url}/traces/{_trace_id(wanted)}", 303)
        traces: Sequence[Trace] = ()
        problem = ""
        if self._jaeger is not None:
            try:
                traces = await self._jaeger.latest(LATEST)
            except UpstreamError as error:
                problem = str(error)
        return self._site.page(
            request,
            "traces.html",
            jaeger=self._jaeger,
            calls=self._site.calls.of(session),
            traces=traces,
            problem=problem,
            status_of=status_of,
        )

    async def show(self, request: Request) -> Response:
        """Show a trace."""
        session = self._site.session(request)
        trace_id = _trace_id(request.path_params["trace_id"])
        if self._jaeger is None:
            raise Problem(404, "No traces", "No source of traces is configured. See the page Traces.")
        problem = ""
        spans: Sequence[Span] = ()
        try:
            spans = await self._spans(self._jaeger, trace_id)
        except UpstreamError as error:
            problem = str(error)
        files = self._site.profile.logs
        return self._site.page(
            request,
            "trace.html",
            200 if spans else 502 if problem else 404,
            trace_id=trace_id,
            jaeger=self._jaeger,
            waterfall=draw(Trace(trace_id, spans)) if spans else None,
            call=next((call for call in self._site.calls.of(session) if call.trace_id == trace_id), None),
            problem=problem,
            log=await read_log_lines(files.items(), trace_id) if files else None,
        )

    @staticmethod
    async def _spans(jaeger: Jaeger, trace_id: str) -> Sequence[Span]:
        for pause in _PAUSES:
            if spans := await jaeger.trace(trace_id):
                return spans
            await asyncio.sleep(pause)
        return await jaeger.trace(trace_id)


def _trace_id(text: str) -> str:
    try:
        return parse_trace_id(text)
    except ConfigurationError:
        raise Problem(
            404, "Not a trace id", "Trace ids have up to 32 hexadecimal digits. Copy one from a log line."
        ) from None
