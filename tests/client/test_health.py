"""Health checks: which servers are asked, and what their answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from gatehouse.client.health import check_health
from gatehouse.client.profile import Profile
from tests.support.environment import PROXIES

NOWHERE = "127.0.0.1:1"


@asynccontextmanager
async def serve(statuses: Mapping[str, str]) -> AsyncIterator[str]:
    """Run a server with these statuses by service name; yield its address."""
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


async def check(profile: Profile, *services: str, name: str = "") -> dict[str, str]:
    found = await asyncio.to_thread(check_health, profile, services, name, 10.0)
    return {service: health.status for service, health in found.items()}


async def test_each_service_has_its_own_status() -> None:
    async with serve({"": "SERVING"}) as users, serve({"": "NOT_SERVING"}) as admin:
        profile = Profile(targets={"users": users, "admin": admin, "other": NOWHERE}, plaintext=True)
        expected = {"users": "SERVING", "admin": "NOT_SERVING", "other": "UNREACHABLE"}
        assert await check(profile) == expected
        assert await check(profile, "admin") == {"admin": "NOT_SERVING"}


async def test_liveness_is_independent_of_readiness() -> None:
    async with serve({"": "NOT_SERVING", "liveness": "SERVING"}) as users:
        profile = Profile(targets={"users": users}, plaintext=True)
        assert await check(profile, "users", name="liveness") == {"users": "SERVING"}
        assert await check(profile, "users", name="unknown") == {"users": "NOT_FOUND"}


async def test_server_without_tls_is_unreachable_over_tls() -> None:
    async with serve({"": "SERVING"}) as users:
        assert await check(Profile(targets={"users": users}), "users") == {"users": "UNREACHABLE"}


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, proxy in PROXIES.items():
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    async with serve({"": "SERVING"}) as users:
        profile = Profile(targets={"users": users}, plaintext=True)
        assert await check(profile) == {"users": "SERVING"}
