"""One log line for each RPC, made of named fields only, so that nothing else can get into the log."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc
from structlog.typing import FilteringBoundLogger

from gatehouse.rpc.call import Call, Method, Next

_CODE = grpc.StatusCode
# Mistakes of callers are info; refusals, overload and outages are warnings; faults of the server are errors.
_LEVELS = {
    _CODE.OK: "info",
    _CODE.CANCELLED: "info",
    _CODE.INVALID_ARGUMENT: "info",
    _CODE.NOT_FOUND: "info",
    _CODE.ALREADY_EXISTS: "info",
    _CODE.ABORTED: "info",
    _CODE.FAILED_PRECONDITION: "info",
    _CODE.OUT_OF_RANGE: "info",
    _CODE.UNAUTHENTICATED: "warning",
    _CODE.PERMISSION_DENIED: "warning",
    _CODE.RESOURCE_EXHAUSTED: "warning",
    _CODE.DEADLINE_EXCEEDED: "warning",
    _CODE.UNIMPLEMENTED: "warning",
    _CODE.UNAVAILABLE: "warning",
    _CODE.UNKNOWN: "error",
    _CODE.INTERNAL: "error",
    _CODE.DATA_LOSS: "error",
}


class LoggingInterceptor:
    """Write one line for each RPC when it ends; for health checks at level debug.

    Args:
        logger: Gets the lines.
    """

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        write: dict[grpc.StatusCode, Callable[..., object]] = {
            code: getattr(self._logger, level if method.observed else "debug")
            for code, level in _LEVELS.items()
        }
        name, shape = method.name, method.shape.value

        async def handle(call: Call) -> None:
            try:
                await call_next(call)
            finally:
                status = call.status
                code = _CODE.OK if status is None else status.code
                fields: dict[str, object] = {
                    "method": name,
                    "shape": shape,
                    "code": code.name,
                    "duration_ms": round((time.perf_counter() - call.started) * 1000, 3),
                    "bytes_received": call.bytes_received,
                    "bytes_sent": call.bytes_sent,
                    "peer": call.context.peer(),
                    "request_id": call.request_id,
                }
                if call.trace_id:
                    fields["trace_id"] = call.trace_id
                if call.principal is not None:
                    fields["client_id"] = call.principal.client_id
                    fields["subject"] = call.principal.subject
                if status is not None and status.reason:
                    fields["reason"] = status.reason
                if call.error_id:
                    fields["error_id"] = call.error_id
                write[code]("rpc", **fields)

        return handle
