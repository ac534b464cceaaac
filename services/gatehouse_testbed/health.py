"""Waits for what services say of their health (grpc.health.v1)."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatehouse.client.calls import open_channel
from gatehouse.client.profile import Profile
from gatehouse_testbed.errors import DemoError


async def until_health(profile: Profile, service: str, *, serving: bool, seconds: float) -> None:
    """Waits until a service says that it serves, or that it does not.

    Args:
        profile: Where it is.
        service: `users`, `admin` or `public`.
        serving: What is waited for.
        seconds: How long.

    Raises:
        DemoError: It did not say so in time.
    """
    wanted = health_pb2.HealthCheckResponse.SERVING
    try:
        async with asyncio.timeout(seconds), open_channel(profile, service) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch
            call = watch(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
            async for answer in call:
                if (answer.status == wanted) == serving:
                    call.cancel()
                    return
    except (TimeoutError, grpc.aio.AioRpcError):
        pass
    word = "SERVING" if serving else "NOT_SERVING"
    raise DemoError(f"{service} was not {word} within {seconds:g} s; its log says why")
