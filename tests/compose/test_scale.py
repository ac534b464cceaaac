"""Several containers of one service behind the published port."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace

import grpc

from tests.support.compose import PROJECT, Host, compose, port_of, run, until

SCALE = ("up", "--wait", "--no-deps", "--no-recreate", "--scale")


async def calls_in_each_container(host: Host, token: str) -> list[int]:
    """Call once over a new connection; return the number of calls that each container has logged."""
    assert await host.code("users", "CountUsers", token) is grpc.StatusCode.OK
    logs = [await asyncio.to_thread(run, "docker", "logs", f"{PROJECT}-users-{n}") for n in (1, 2)]
    return [sum(json.loads(line)["event"] == "rpc" for line in log.stdout.splitlines()) for log in logs]


async def balanced_codes(host: Host, token: str, stopping: asyncio.Event) -> Counter[grpc.StatusCode]:
    """Call through the balancer until `stopping` is set; return how often each code came."""
    target = f"localhost:{await asyncio.to_thread(port_of, 'balancer', 50061)}"
    targets = {**host.profile.targets, "users": target}
    behind = replace(host, profile=host.profile.model_copy(update={"targets": targets}))
    codes: Counter[grpc.StatusCode] = Counter()
    while not stopping.is_set():
        codes[await behind.code("users", "CountUsers", token)] += 1
    return codes


async def test_balancer_loses_no_call_when_a_container_is_restarted(host: Host) -> None:
    token, stopping = await host.user_token("alice"), asyncio.Event()
    try:
        await asyncio.to_thread(compose, "--profile", "scale", *SCALE, "users=2", "users", "balancer")
        calling = asyncio.create_task(balanced_codes(host, token, stopping))
        await asyncio.to_thread(run, "docker", "restart", "--time", "30", f"{PROJECT}-users-1")
        await asyncio.to_thread(compose, *SCALE, "users=2", "users")  # waits until it is healthy
        stopping.set()
        codes = await calling
    finally:
        stopping.set()
        await asyncio.to_thread(compose, "--profile", "scale", "rm", "--stop", "--force", "balancer")
        await asyncio.to_thread(compose, *SCALE, "users=1", "users")
    assert set(codes) == {grpc.StatusCode.OK}
    assert codes.total() > 10


async def test_connections_reach_all_containers_of_a_service(host: Host) -> None:
    token = await host.user_token("alice")
    try:
        await asyncio.to_thread(compose, *SCALE, "users=2", "users")
        await until(lambda: calls_in_each_container(host, token), all)
    finally:
        await asyncio.to_thread(compose, *SCALE, "users=1", "users")
