"""A small store of traces on loopback: OTLP over gRPC in, Jaeger's query API (/api/traces/ID) out."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import uvicorn
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gatehouse_testbed.errors import DemoError
from gatehouse_testbed.tracing.spans import MAX_SPANS, Span, to_jaeger

MAX_TRACES = 2_000
_HOST = "127.0.0.1"
_TRACE_ID = re.compile(r"[0-9a-f]{1,32}")


class TraceStore:
    """The newest traces; an old one goes when a new one needs its place.

    Args:
        max_traces: Greatest number of traces.
        max_spans: Greatest number of spans of one trace; what comes later is dropped.
    """

    def __init__(self, max_traces: int = MAX_TRACES, max_spans: int = MAX_SPANS) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._traces: OrderedDict[str, list[Span]] = OrderedDict()

    def add(self, trace_id: str, span: Span) -> None:
        """Keeps a span."""
        spans = self._traces.setdefault(trace_id, [])
        if len(spans) < self._max_spans:
            spans.append(span)
        while len(self._traces) > self._max_traces:
            self._traces.popitem(last=False)

    def get(self, trace_id: str) -> Sequence[Span]:
        """Returns the spans of a trace, none when it is not known."""
        return self._traces.get(trace_id, ())


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as OTLP has them."""

    def __init__(self, store: TraceStore) -> None:
        self._store = store

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - generated names
        """See opentelemetry/proto/collector/trace/v1/trace_service.proto."""
        for resource in request.resource_spans:
            service = str(_attributes(resource.resource.attributes).get("service.name", "unknown"))
            for scope in resource.scope_spans:
                for raw in scope.spans:
                    self._store.add(raw.trace_id.hex(), _span(raw, service))
        return trace_service_pb2.ExportTraceServiceResponse()


def _span(raw: trace_pb2.Span, service: str) -> Span:
    return Span(
        span_id=raw.span_id.hex(),
        parent_id=raw.parent_span_id.hex(),
        service=service,
        name=raw.name,
        kind=trace_pb2.Span.SpanKind.Name(raw.kind).removeprefix("SPAN_KIND_").lower(),
        start=raw.start_time_unix_nano // 1000,
        duration=max(0, raw.end_time_unix_nano - raw.start_time_unix_nano) // 1000,
        failed=raw.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes=_attributes(raw.attributes),
    )


def _attributes(pairs: Sequence[common_pb2.KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind in {"string_value", "bool_value", "int_value", "double_value"}:
        return getattr(value, kind)
    if kind == "array_value":
        return ", ".join(str(_value(item)) for item in value.array_value.values)
    return ""


def query_app(store: TraceStore) -> Starlette:
    """Makes the web application that answers as Jaeger's query service does."""

    async def trace(request: Request) -> Response:
        trace_id = request.path_params["trace_id"].lower()
        spans = store.get(trace_id.rjust(32, "0")) if _TRACE_ID.fullmatch(trace_id) else ()
        if not spans:
            return JSONResponse({"data": None, "errors": [{"code": 404, "msg": "trace not found"}]}, 404)
        return JSONResponse({"data": [to_jaeger(trace_id.rjust(32, "0"), spans)], "errors": None})

    return Starlette(routes=[Route("/api/traces/{trace_id}", trace)])


@asynccontextmanager
async def run_trace_server(port: int, store: TraceStore | None = None) -> AsyncIterator[str]:
    """Takes spans and answers questions until the context ends, on loopback only.

    Args:
        port: Of the query API.
        store: Where spans are kept; a new one when None.

    Yields:
        The address for OTLP over gRPC, such as `http://127.0.0.1:4317`.

    Raises:
        DemoError: The port is taken.
    """
    store = TraceStore() if store is None else store
    collector = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(_Collector(store), collector)
    otlp_port = collector.add_insecure_port(f"{_HOST}:0")
    await collector.start()
    try:
        async with _run_web(query_app(store), port):
            yield f"http://{_HOST}:{otlp_port}"
    finally:
        await collector.stop(0)


@asynccontextmanager
async def _run_web(app: Starlette, port: int) -> AsyncIterator[None]:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise DemoError(
            f"{_HOST}:{port}: cannot listen there ({error.strerror}); end what listens there"
        ) from None
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            limit_concurrency=100,
            timeout_graceful_shutdown=1,
        )
    )
    # `serve` would take the signals of the process for itself.
    serving = asyncio.create_task(server._serve([listener]))  # noqa: SLF001 - uvicorn has no public way
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()
