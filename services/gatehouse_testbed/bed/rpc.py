"""Interceptors of the test bed: one injects faults into calls, the other records the calls."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc

from gatehouse.oauth import Principal
from gatehouse.rpc import AccessRule, Call, Method
from gatehouse.rpc.call import Next, Status
from gatehouse.rpc.errors import StatusError, error_info
from gatehouse_testbed.bed.details import parse_details
from gatehouse_testbed.bed.disconnect import disconnect
from gatehouse_testbed.bed.evidence import Evidence
from gatehouse_testbed.bed.fault_list import Faults
from gatehouse_testbed.bed.faults import RpcFault
from gatehouse_testbed.bed.records import RecordedCall


class _EndOfStream(Exception):
    """Ends a stream early with the status OK."""


class FaultInterceptor:
    """Inject the faults that are in effect. It is called after authorization.

    Args:
        faults: All faults.
        names: User name by `sub`.
        clock: Seconds since the epoch.

    Attributes:
        methods: The RPCs of the services, as `package.Service/Method`, and whether each streams responses.
    """

    def __init__(self, faults: Faults, names: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._faults = faults
        self._names = names
        self._clock = clock
        self.methods: dict[str, bool] = {}

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""

        async def handle(call: Call) -> None:
            callers = frozenset(callers_of(call.principal, self._names))
            fault = next(
                (f for f in self._faults.of(RpcFault) if f.matches(method.path, callers) and f.happens()),
                None,
            )
            if fault is None:
                await call_next(call)
                return
            await fault.wait(fault.delay_seconds)
            if call.principal is not None:
                login = AccessRule(authenticated=True, acr=fault.acr, max_age=fault.max_age)
                login.check_token(call.principal, self._clock())
            if fault.ends_call:
                if fault.after_messages is None:
                    await _end(fault, call.context)
                call.context = _Limited(call.context, fault)
            with suppress(_EndOfStream):
                await call_next(call)
                # gRPC writes the response of an RPC that has only one when the chain returns it.
                if fault.after_messages == 1 and call.response is not None:
                    await _end(fault, call.context)

        if not method.observed:
            return call_next
        self.methods[method.name] = method.handler.response_streaming
        return handle


def callers_of(principal: Principal | None, names: Mapping[str, str]) -> list[str]:
    """Return the names by which a test may know a caller: user name, client id and `sub`."""
    if principal is None:
        return []
    user = names.get(principal.subject)
    return [*([user] if user else []), principal.client_id, principal.subject]


async def _end(fault: RpcFault, context: Any) -> None:
    """End a call as a fault says; return if it hangs and the fault is removed."""
    if fault.hang:
        await fault.wait()
        return
    if fault.disconnect:
        disconnect(context.peer())
    while fault.code is None:  # until gRPC sees that the client is gone
        await asyncio.Event().wait()
    if fault.code == "OK":
        raise _EndOfStream
    details = (error_info(fault.reason), *parse_details(fault.details))
    raise StatusError(Status(grpc.StatusCode[fault.code], fault.message, fault.reason, details))


class _Limited:
    """gRPC's context of a call that a fault ends after a number of responses."""

    def __init__(self, context: Any, fault: RpcFault) -> None:
        self._context = context
        self._fault = fault
        self._written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, raw: bytes) -> None:
        """Write a response; end the call after the last one."""
        await self._context.write(raw)
        self._written += 1
        if self._written == self._fault.after_messages:
            await _end(self._fault, self._context)


class CallRecorder:
    """Record the calls of all services but those of health checks.

    Args:
        seen: Gets the calls.
        names: User name by `sub`.
        clock: Seconds since the epoch.
    """

    def __init__(self, seen: Evidence, names: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._seen = seen
        self._names = names
        self._clock = clock

    def intercept(self, method: Method, call_next: Next) -> Next:
        """See Interceptor.intercept."""
        if not method.observed:
            return call_next

        async def handle(call: Call) -> None:
            started_at, metadata = self._clock(), _values(call)
            code, calls = "CANCELLED", self._seen.calls
            try:
                await call_next(call)
                code = "OK" if call.status is None else call.status.code.name
            finally:
                calls.append(
                    RecordedCall(
                        method=method.name,
                        rpc_type=method.rpc_type.value,
                        code=code,
                        reason="" if call.status is None else call.status.reason,
                        caller=next(iter(callers_of(call.principal, self._names)), ""),
                        metadata=metadata,
                        request_id=call.request_id,
                        trace_id=call.trace_id,
                        started_at=started_at,
                        duration_ms=(time.perf_counter() - call.started) * 1000,
                    )
                )

        return handle


def _values(call: Call) -> dict[str, list[str]]:
    """Return the metadata of a call by key."""
    values: dict[str, list[str]] = {}
    if not call.metadata.too_large:
        for key, value in call.context.invocation_metadata() or ():
            text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
            values.setdefault(key, []).append(text)
    return values
