"""The health service, grpc.health.v1.

The servicer of grpcio-health-checking is not used: its Watch never ends, so every shutdown would take the
whole drain time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.rpc.call import Status
from gatehouse.rpc.errors import StatusError

LIVENESS = "liveness"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):
    """Report whether each service is ready; `liveness` is always SERVING.

    Args:
        services: Names of the services; "" stands for all of them.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._status = dict.fromkeys(("", *services), NOT_SERVING)
        self._status[LIVENESS] = SERVING
        self._changed = asyncio.Event()
        self._ending = False

    def set_ready(self, *, ready: bool) -> None:
        """Set the status of all services except `liveness`; do nothing after `end`."""
        if not self._ending:
            self._set(SERVING if ready else NOT_SERVING)

    def end(self) -> None:
        """Set all services to NOT_SERVING permanently, and end each Watch after it has sent that."""
        self._ending = True
        self._set(NOT_SERVING)

    def _set(self, status: Any) -> None:
        for name in self._status:
            if name != LIVENESS:
                self._status[name] = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: Any, context: _Context) -> Any:  # noqa: ARG002, N802 - generated names
        """Return the status of a service, or NOT_FOUND."""
        status = self._status.get(request.service)
        if status is None:
            raise StatusError(Status(grpc.StatusCode.NOT_FOUND, "unknown service", "SERVICE_UNKNOWN"))
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: _Context) -> AsyncIterator[Any]:  # noqa: ARG002, N802 - generated names
        """Yield the status of a service, and yield it again whenever it changes."""
        last = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, _UNKNOWN)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            elif self._ending:
                return
            else:
                await changed.wait()
