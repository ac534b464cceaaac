"""One log line for each RPC. It is made of named fields only, so nothing else can get into it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from structlog.typing import FilteringBoundLogger

from gatehouse.oauth import Principal
from gatehouse.rpc._later import Later
from gatehouse.rpc.call import Call, Method, Next, Status

_CODE = grpc.StatusCode
# The caller's own faults are worth a look only in numbers; ours are worth one each.
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


_URGENT = ("warning", "error")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What is the same in all lines of one RPC and code."""

    method: str
    rpc_type: str
    code: str
    write: Callable[..., object]
    urgent: bool


# Outcome; seconds since the epoch; seconds that it took; bytes received and sent; peer; request id; trace id;
# principal; status; error id. A tuple, since one is made for each call.
_Ended = tuple[_Outcome, float, float, int, int, str, str, str, Principal | None, Status | None, str]


def _write(ended: _Ended) -> None:
    outcome, now, seconds, received, sent, peer, request_id, trace_id, principal, status, error_id = ended
    fields: dict[str, object] = {
        "timestamp": datetime.fromtimestamp(now, UTC),
        "method": outcome.method,
        "rpc_type": outcome.rpc_type,
        "code": outcome.code,
        "duration_ms": round(seconds * 1000, 3),
        "bytes_received": received,
        "bytes_sent": sent,
        "peer": peer,
        "request_id": request_id,
    }
    if trace_id:
        fields["trace_id"] = trace_id
    if principal is not None:
        fields["client_id"] = principal.client_id
        fields["subject"] = principal.subject
    if status is not None and status.reason:
        fields["reason"] = status.reason
        if status.cause:
            fields["cause"] = status.cause
    if error_id:
        fields["error_id"] = error_id
    outcome.write("rpc", **fields)


class LoggingInterceptor:
    """Writes one line for each RPC when it ends; health checks at debug unless a limit refuses them.

    Lines below warning may wait for a moment, and are written together; their time is that of the call.

    Args:
        logger: Gets the lines.
    """

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
        self._ended = Later(_write)

    def flush(self) -> None:
        """Writes the lines that wait."""
        self._ended.flush()

    def settle(self) -> None:
        """Has nothing wait any more."""
        self._ended.settle()

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        name, rpc_type = method.name, method.rpc_type.value
        shown = {code: method.observed or code is _CODE.RESOURCE_EXHAUSTED for code in _LEVELS}
        outcomes = {
            code: _Outcome(
                name,
                rpc_type,
                code.name,
                getattr(self._logger, level if shown[code] else "debug"),
                shown[code] and level in _URGENT,
            )
            for code, level in _LEVELS.items()
        }
        fine, add = outcomes[_CODE.OK], self._ended.add

        async def handle(call: Call) -> None:
            try:
                await call_next(call)
            finally:
                status = call.status
                outcome = fine if status is None else outcomes[status.code]
                add(
                    (
                        outcome,
                        time.time(),
                        time.perf_counter() - call.started,
                        call.bytes_received,
                        call.bytes_sent,
                        call.context.peer(),
                        call.request_id,
                        call.trace_id,
                        call.principal,
                        status,
                        call.error_id,
                    )
                )
                if outcome.urgent:
                    self.flush()

        return handle
