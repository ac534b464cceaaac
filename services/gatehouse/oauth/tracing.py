"""A client span for each outgoing HTTP request, with W3C trace context in its headers."""

from __future__ import annotations

import asyncio

import httpx
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


class TracedTransport(httpx.AsyncBaseTransport):
    """An HTTP transport that records spans. They contain no query, header or body.

    Args:
        tracer: Creates the spans.
        inner: Transport that sends the requests.
    """

    def __init__(self, tracer: Tracer, inner: httpx.AsyncBaseTransport) -> None:
        self._tracer = tracer
        self._inner = inner
        self._propagator = TraceContextTextMapPropagator()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request inside a span; see httpx.AsyncBaseTransport."""
        with self._tracer.start_as_current_span(
            request.method,
            kind=SpanKind.CLIENT,
            record_exception=False,
            set_status_on_exception=False,
            attributes={
                "http.request.method": request.method,
                "server.address": request.url.host,
                "server.port": request.url.port or (443 if request.url.scheme == "https" else 80),
                "url.path": request.url.path,
            },
        ) as span:
            self._propagator.inject(request.headers)
            try:
                response = await self._inner.handle_async_request(request)
            except (httpx.TransportError, asyncio.CancelledError) as error:  # cancelled by a timeout
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= httpx.codes.BAD_REQUEST:
                span.set_status(Status(StatusCode.ERROR))
            return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()
