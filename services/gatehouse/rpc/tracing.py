"""A span for each RPC, with W3C trace context in and out. Made by hand: the stock one breaks Health.Watch."""

from __future__ import annotations

import re
import time

import grpc
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NoOpTracer,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gatehouse.rpc._later import Later
from gatehouse.rpc.call import Call, Method, Next
from gatehouse.rpc.call import Status as CallStatus

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
    """Makes what the propagator reads; it logs what it cannot read, which is the caller's text."""
    if not _TRACESTATE.fullmatch(call.metadata.tracestate):
        return {"traceparent": call.metadata.traceparent}
    return {"traceparent": call.metadata.traceparent, "tracestate": call.metadata.tracestate}


(_SPAN_KEY,) = set_span_in_context(INVALID_SPAN, Context())

_Ended = tuple[Span, Method, CallStatus | None, str, int]


def _end(ended: _Ended) -> None:
    """Ends a span with what came of its call."""
    span, method, status, request_id, time_ns = ended
    code = grpc.StatusCode.OK if status is None else status.code
    attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": method.name,
        "rpc.response.status_code": code.name,
        "gatehouse.request_id": request_id,
    }
    if status is not None and status.reason:
        attributes["error.type"] = status.reason
    span.set_attributes(attributes)
    if code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR))
    span.end(time_ns)


class TracingInterceptor:
    """Opens a server span as a child of the caller's; health checks make none.

    Args:
        tracer: Makes the spans; None makes none.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or NoOpTracer()
        self._ended = Later(_end)
        self._propagator = TraceContextTextMapPropagator()

    def flush(self) -> None:
        """Ends the spans of calls that are over."""
        self._ended.flush()

    def settle(self) -> None:
        """Has nothing wait any more."""
        self._ended.settle()

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        if not method.observed:
            return call_next
        start, name = self._tracer.start_span, method.name
        extract, root, add = self._propagator.extract, Context(), self._ended.add

        async def handle(call: Call) -> None:
            parent = root
            if call.metadata.traceparent:
                parent = extract(_carrier(call), root)
            span = start(name, parent, SpanKind.SERVER)
            trace_id = span.get_span_context().trace_id
            if trace_id:  # without a tracer it is 0, which is no id
                call.trace_id = f"{trace_id:032x}"
            # As set_span_in_context does. It is of this task, which ends with the call.
            context_api.attach(Context({**parent, _SPAN_KEY: span}))
            try:
                await call_next(call)
            finally:
                if span.is_recording():
                    add((span, method, call.status, call.request_id, time.time_ns()))

        return handle
