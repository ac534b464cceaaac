"""Several containers of one service behind the published port."""

from __future__ import annotations

import asyncio
import json

import grpc

from tests.support.compose import PROJECT, Host, compose, run, until


async def calls_in_each_container(host: Host, token: str) -> list[int]:
    """Call once over a new connection; return the number of calls that each container has logged."""
    assert await host.code("users", "CountUsers", token) is grpc.StatusCode.OK
    logs = [await asyncio.to_thread(run, "docker", "logs", f"{PROJECT}-users-{n}") for n in (1, 2)]
    return [sum(json.loads(line)["event"] == "rpc" for line in log.stdout.splitlines()) for log in logs]


async def test_connections_reach_all_containers_of_a_service(host: Host) -> None:
    token = await host.user_token("alice")
    scale = ("up", "--wait", "--no-deps", "--no-recreate", "--scale")
    try:
        await asyncio.to_thread(compose, *scale, "users=2", "users")
        await until(lambda: calls_in_each_container(host, token), all)
    finally:
        await asyncio.to_thread(compose, *scale, "users=1", "users")
