"""Wait for the health of a service (grpc.health.v1)."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.client.calls import open_channel
from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import TestbedError


async def wait_for_health(profile: Profile, service: str, *, serving: bool, seconds: float) -> None:
    """Wait until a service is healthy, or until it is not.

    Args:
        profile: Has the address of the service.
        service: Name of the service.
        serving: Whether to wait for SERVING or for any other status.
        seconds: How long to wait.

    Raises:
        TestbedError: The service did not reach this status in time.
    """
    try:
        async with asyncio.timeout(seconds), open_channel(profile, service) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch
            call = watch(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
            async for answer in call:
                if (answer.status == health_pb2.HealthCheckResponse.SERVING) == serving:
                    call.cancel()
                    return
    except (TimeoutError, grpc.aio.AioRpcError):
        pass
    status = "SERVING" if serving else "NOT_SERVING"
    raise TestbedError(f"{service}: not {status} within {seconds:g} s; see its log")
