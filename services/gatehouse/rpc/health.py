"""The health service, grpc.health.v1.

The servicer of grpcio-health-checking is not used: its Watch never ends, so every shutdown would take the
whole drain time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.rpc.call import Status
from gatehouse.rpc.errors import StatusError

LIVENESS = "liveness"
PROBLEMS_KEY = "gatehouse-problems"
_MAX_PROBLEMS_CHARS = 1000
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):
    """Report whether each service is ready; `liveness` is always SERVING.

    A Check that returns NOT_SERVING says why in its trailing metadata, in `PROBLEMS_KEY`.

    Args:
        services: Names of the services; "" means all of them.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._status = dict.fromkeys(("", *services), NOT_SERVING)
        self._status[LIVENESS] = SERVING
        self._problems: Sequence[str] = ("STARTING",)
        self._changed = asyncio.Event()
        self._ending = False

    @property
    def problems(self) -> Sequence[str]:
        """Why the services are not ready; nothing if they are."""
        return self._problems

    def set_problems(self, problems: Sequence[str]) -> None:
        """Set the status of all services except `liveness`; do nothing after `end`.

        Args:
            problems: Why they are not ready; nothing if they are.
        """
        if not self._ending:
            self._set(problems)

    def end(self) -> None:
        """Set all services to NOT_SERVING permanently, and end each Watch after it has sent that."""
        self._ending = True
        self._set(("STOPPING",))

    def _set(self, problems: Sequence[str]) -> None:
        self._problems = problems
        status = NOT_SERVING if problems else SERVING
        for name in self._status:
            if name != LIVENESS:
                self._status[name] = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: Any, context: _Context) -> Any:  # noqa: N802 - generated name
        """Return the status of a service, or NOT_FOUND."""
        status = self._status.get(request.service)
        if status is None:
            raise StatusError(Status(grpc.StatusCode.NOT_FOUND, "unknown service", "SERVICE_UNKNOWN"))
        if status == NOT_SERVING:
            text = "; ".join(self._problems)[:_MAX_PROBLEMS_CHARS]
            context.set_trailing_metadata(
                ((PROBLEMS_KEY, text.encode("ascii", "backslashreplace").decode()),)
            )
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
