"""A server span for each RPC, as a child of the caller's span (W3C Trace Context).

The interceptor of opentelemetry-instrumentation-grpc is not used: Health.Watch fails under it, and unknown
methods get no span.
"""

from __future__ import annotations

import re

import grpc
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracer,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse.rpc.call import Call, Method, Next

# OpenTelemetry semantic conventions for gRPC: which codes are the server's fault.
_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


# W3C Trace Context, section 3.3.
_TAIL = r"[a-z0-9_\-*/]"
_KEY = f"(?:[a-z]{_TAIL}{{0,255}}|[a-z0-9]{_TAIL}{{0,240}}@[a-z]{_TAIL}{{0,13}})"
_MEMBER = rf"[ \t]*(?:{_KEY}=[\x21-\x2b\x2d-\x3c\x3e-\x7e]{{1,256}}[ \t]*)?"
_TRACESTATE = re.compile(f"{_MEMBER}(?:,{_MEMBER}){{0,31}}", re.ASCII)


def _carrier(call: Call) -> dict[str, str]:
    """Return the valid trace headers: the propagator logs invalid ones, which are the caller's text."""
    if not _TRACESTATE.fullmatch(call.metadata.tracestate):
        return {"traceparent": call.metadata.traceparent}
    return {"traceparent": call.metadata.traceparent, "tracestate": call.metadata.tracestate}


class TracingInterceptor:
    """Record a server span for each RPC except health checks.

    The sampling decision comes first: a call that is not sampled gets trace context only, and its attributes
    are never built.

    Args:
        tracer: Makes the spans; None records none.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or NoOpTracer()
        self._propagator = TraceContextTextMapPropagator()

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        if not method.observed:
            return call_next
        root = Context()

        async def handle(call: Call) -> None:
            parent = self._propagator.extract(_carrier(call), root) if call.metadata.traceparent else root
            span = self._tracer.start_span(method.name, parent, SpanKind.SERVER)
            context = span.get_span_context()
            if context.is_valid:
                call.trace_id = format_trace_id(context.trace_id)
            # Not detached: the context belongs to the task, which ends with the call.
            context_api.attach(set_span_in_context(span, parent))
            try:
                await call_next(call)
            finally:
                if span.is_recording():
                    _end(span, call)

        return handle


def _end(span: Span, call: Call) -> None:
    """End a span with the outcome of its call."""
    status = call.status
    code = grpc.StatusCode.OK if status is None else status.code
    attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": call.method.name,
        "rpc.response.status_code": code.name,
        "gatehouse.request_id": call.request_id,
    }
    if status is not None and status.reason:
        attributes["error.type"] = status.reason
    span.set_attributes(attributes)
    if code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
