"""A span for each RPC, with W3C trace context in and out. Made by hand: the stock one breaks Health.Watch."""

from __future__ import annotations

import re

import grpc
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, SpanKind, Status, StatusCode, Tracer, set_span_in_context
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


# W3C Trace Context, sections 3.2 and 3.3.
_MAX_TRACEPARENT_CHARS, _MAX_TRACESTATE_CHARS = 128, 512
_TAIL = r"[a-z0-9_\-*/]"
_KEY = f"(?:[a-z]{_TAIL}{{0,255}}|[a-z0-9]{_TAIL}{{0,240}}@[a-z]{_TAIL}{{0,13}})"
_MEMBER = rf"[ \t]*(?:{_KEY}=[\x21-\x2b\x2d-\x3c\x3e-\x7e]{{1,256}}[ \t]*)?"
_TRACESTATE = re.compile(f"{_MEMBER}(?:,{_MEMBER}){{0,31}}", re.ASCII)


def _carrier(call: Call) -> dict[str, str]:
    """Makes what the propagator reads; it logs what it cannot read, which is the caller's text."""
    parent, state = call.traceparent, call.tracestate
    if len(parent) > _MAX_TRACEPARENT_CHARS:
        return {}
    if len(state) > _MAX_TRACESTATE_CHARS or not _TRACESTATE.fullmatch(state):
        return {"traceparent": parent}
    return {"traceparent": parent, "tracestate": state}


class TracingInterceptor:
    """Opens a server span as a child of the caller's; health checks make none.

    Args:
        tracer: Makes the spans; None makes none.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or NoOpTracer()
        self._propagator = TraceContextTextMapPropagator()

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        if not method.observed:
            return call_next
        start, name = self._tracer.start_span, method.name
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        extract, root = self._propagator.extract, Context()

        async def handle(call: Call) -> None:
            parent = root
            if call.traceparent:
                parent = extract(_carrier(call), root)
            span = start(name, parent, SpanKind.SERVER)
            ids = span.get_span_context()
            if ids.is_valid:
                call.trace_id = f"{ids.trace_id:032x}"
            context_api.attach(set_span_in_context(span, parent))  # of this task, which ends with the call
            try:
                await call_next(call)
            finally:
                if span.is_recording():
                    code = call.code
                    # All at once: each call of the SDK has a price.
                    found = {
                        **attributes,
                        "rpc.response.status_code": code.name,
                        "gatehouse.request_id": call.request_id,
                    }
                    if call.status is not None and call.status.reason:
                        found["error.type"] = call.status.reason
                    span.set_attributes(found)
                    if code in _SERVER_FAULTS:
                        span.set_status(Status(StatusCode.ERROR))
                span.end()

        return handle
