"""Receive traces over OTLP/gRPC, keep them in memory, and serve them over Jaeger's query API."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gatehouse.client.traces.jaeger import to_jaeger
from gatehouse.client.traces.spans import MAX_SPANS, Span
from gatehouse_testbed.web import listen, serve_app

MAX_TRACES = 2_000
_MAX_LIMIT = 100
_HOST = "127.0.0.1"
_TRACE_ID = re.compile(r"[0-9a-f]{1,32}")


class TraceStore:
    """The newest traces, in memory. Threads may share it.

    Args:
        max_traces: Maximum number of traces; the oldest one is dropped first.
        max_spans: Maximum number of spans of one trace; later ones are dropped.
    """

    def __init__(self, max_traces: int = MAX_TRACES, max_spans: int = MAX_SPANS) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._traces: OrderedDict[str, list[Span]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, trace_id: str, span: Span) -> None:
        """Keep a span."""
        with self._lock:
            spans = self._traces.setdefault(trace_id, [])
            if len(spans) < self._max_spans:
                spans.append(span)
            while len(self._traces) > self._max_traces:
                self._traces.popitem(last=False)

    def get(self, trace_id: str) -> Sequence[Span]:
        """Return the spans of a trace, none if it is unknown."""
        with self._lock:
            return tuple(self._traces.get(trace_id, ()))

    def services(self) -> Sequence[str]:
        """Return the services that have sent spans."""
        with self._lock:
            return sorted({span.service for spans in self._traces.values() for span in spans})

    def latest(self, service: str, limit: int) -> Mapping[str, Sequence[Span]]:
        """Return the newest traces that pass a service, the newest first, by id."""
        with self._lock:
            found = (
                (trace_id, tuple(spans))
                for trace_id, spans in reversed(self._traces.items())
                if any(span.service == service for span in spans)
            )
            return dict(islice(found, limit))


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, store: TraceStore, on_export: Callable[[bytes], object]) -> None:
        self._store = store
        self._on_export = on_export

    def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - generated names
        """See opentelemetry/proto/collector/trace/v1/trace_service.proto."""
        self._on_export(request.SerializeToString())
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


@contextmanager
def receive_spans(store: TraceStore, on_export: Callable[[bytes], object] = lambda _: None) -> Iterator[str]:
    """Receive spans on a free port of loopback, in threads, until the context ends.

    Args:
        store: Keeps the spans.
        on_export: Called with every serialized ExportTraceServiceRequest.

    Yields:
        The OTLP endpoint, such as `http://127.0.0.1:4317`.
    """
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(_Collector(store, on_export), server)
    port = server.add_insecure_port(f"{_HOST}:0")
    server.start()
    try:
        yield f"http://{_HOST}:{port}"
    finally:
        server.stop(0).wait()


def query_app(store: TraceStore) -> Starlette:
    """Return a web application with the part of Jaeger's query API that returns traces."""

    async def trace(request: Request) -> Response:
        trace_id = request.path_params["trace_id"].lower()
        spans = store.get(trace_id.rjust(32, "0")) if _TRACE_ID.fullmatch(trace_id) else ()
        if not spans:
            return JSONResponse({"data": None, "errors": [{"code": 404, "msg": "trace not found"}]}, 404)
        return JSONResponse({"data": [to_jaeger(trace_id.rjust(32, "0"), spans)], "errors": None})

    async def latest(request: Request) -> Response:
        limit = request.query_params.get("limit", "20")
        if not limit.isascii() or not limit.isdecimal():
            return JSONResponse({"data": None, "errors": [{"code": 400, "msg": "limit: not a number"}]}, 400)
        found = store.latest(request.query_params.get("service", ""), min(int(limit), _MAX_LIMIT))
        return JSONResponse({"data": [to_jaeger(*each) for each in found.items()], "errors": None})

    async def services(_: Request) -> Response:
        return JSONResponse({"data": store.services(), "errors": None})

    return Starlette(
        routes=[
            Route("/api/services", services),
            Route("/api/traces", latest),
            Route("/api/traces/{trace_id}", trace),
        ]
    )


@asynccontextmanager
async def run_trace_server(port: int) -> AsyncIterator[str]:
    """Receive spans and serve them over Jaeger's query API, on loopback, until the context ends.

    Args:
        port: Port of the query API.

    Yields:
        The OTLP endpoint, such as `http://127.0.0.1:4317`.

    Raises:
        TestbedError: The port is taken.
    """
    store = TraceStore()
    listener = listen(_HOST, port)
    with receive_spans(store) as endpoint:
        async with serve_app(query_app(store), listener):
            yield endpoint
