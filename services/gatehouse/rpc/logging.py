"""One log line for each RPC, made of named fields only, so that nothing else can get into the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import grpc
from structlog.typing import FilteringBoundLogger

from gatehouse.rpc._batch import Batch
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


def _write(write: Callable[..., object], ended_at: float, fields: dict[str, object]) -> None:
    timestamp = datetime.fromtimestamp(ended_at, UTC).isoformat().replace("+00:00", "Z")
    write("rpc", timestamp=timestamp, **fields)


class LoggingInterceptor:
    """Write one line for each RPC when it ends; for health checks at debug unless a limit refuses them.

    Args:
        logger: Gets the lines.
    """

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
        self._batch = Batch()

    def flush(self) -> None:
        """Write the lines of calls that have ended."""
        self._batch.flush()

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        shown = {code: method.observed or code is _CODE.RESOURCE_EXHAUSTED for code in _LEVELS}
        write: dict[grpc.StatusCode, Callable[..., object]] = {
            code: getattr(self._logger, level if shown[code] else "debug") for code, level in _LEVELS.items()
        }
        name, rpc_type = method.name, method.rpc_type.value

        async def handle(call: Call) -> None:
            try:
                await call_next(call)
            finally:
                status = call.status
                code = _CODE.OK if status is None else status.code
                fields: dict[str, object] = {
                    "method": name,
                    "rpc_type": rpc_type,
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
                    fields["issuer"] = call.principal.issuer
                    fields["subject"] = call.principal.subject
                    if call.principal.actor is not None:
                        fields["actor_issuer"] = call.principal.actor.issuer
                        fields["actor_subject"] = call.principal.actor.subject
                if status is not None and status.reason:
                    fields["reason"] = status.reason
                    if status.cause:
                        fields["cause"] = status.cause
                if call.error_id:
                    fields["error_id"] = call.error_id
                self._batch.add(partial(_write, write[code], time.time(), fields))

        return handle
