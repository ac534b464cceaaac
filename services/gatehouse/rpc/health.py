"""grpc.health.v1 over the library's stubs.

The library's own servicer never ends a Watch, so that every drain would last to its deadline.
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
    """Says of each service whether it serves; of `liveness` that the process runs.

    Args:
        services: Names of the services; "" stands for all together.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._status = dict.fromkeys(("", *services), NOT_SERVING)
        self._status[LIVENESS] = SERVING
        self._changed = asyncio.Event()
        self._ending = False

    def set_ready(self, *, ready: bool) -> None:
        """Sets all services but `liveness`; without effect once the server is ending."""
        if not self._ending:
            self._set(SERVING if ready else NOT_SERVING)

    def end(self) -> None:
        """Sets all services to NOT_SERVING for good, and ends every Watch once it has said so."""
        self._ending = True
        self._set(NOT_SERVING)

    def _set(self, status: Any) -> None:
        for name in self._status:
            if name != LIVENESS:
                self._status[name] = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: Any, context: _Context) -> Any:  # noqa: ARG002, N802 - generated names
        """Answers with the status of one service; NOT_FOUND for one that is not here."""
        status = self._status.get(request.service)
        if status is None:
            raise StatusError(
                Status(grpc.StatusCode.NOT_FOUND, "there is no such service here", "SERVICE_UNKNOWN")
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: _Context) -> AsyncIterator[Any]:  # noqa: ARG002, N802 - generated names
        """Sends the status of one service, and again whenever it changes."""
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
