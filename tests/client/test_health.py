"""`gatehouse healthcheck`: who is asked, and what is made of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from gatehouse.client.health import check_health
from gatehouse.client.profile import Profile

NOWHERE = "127.0.0.1:1"


@asynccontextmanager
async def serving(statuses: Mapping[str, str]) -> AsyncIterator[str]:
    """A server with these statuses by service name; yields its address."""
    server, health = grpc.aio.server(), HealthServicer()
    add_HealthServicer_to_server(health, server)
    for name, status in statuses.items():
        await health.set(name, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def ask(profile: Profile, *services: str, name: str = "") -> dict[str, str]:
    return await asyncio.to_thread(check_health, profile, services, name, 10.0)


async def test_each_service_tells_its_own_status() -> None:
    async with serving({"": "SERVING"}) as users, serving({"": "NOT_SERVING"}) as admin:
        profile = Profile(targets={"users": users, "admin": admin, "other": NOWHERE}, plaintext=True)
        expected = {"users": "SERVING", "admin": "NOT_SERVING", "other": "UNREACHABLE"}
        assert await ask(profile) == expected
        assert await ask(profile, "admin") == {"admin": "NOT_SERVING"}


async def test_liveness_is_asked_apart_from_readiness() -> None:
    async with serving({"": "NOT_SERVING", "liveness": "SERVING"}) as users:
        profile = Profile(targets={"users": users}, plaintext=True)
        assert await ask(profile, "users", name="liveness") == {"users": "SERVING"}
        assert await ask(profile, "users", name="unknown") == {"users": "NOT_FOUND"}


async def test_a_server_that_does_not_speak_tls_is_not_taken_for_a_healthy_one() -> None:
    async with serving({"": "SERVING"}) as users:
        assert await ask(Profile(targets={"users": users}), "users") == {"users": "UNREACHABLE"}
