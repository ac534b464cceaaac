"""A role given here is a role there: services as processes, a real database, the embedded issuer."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from gatehouse.admin.v1 import admin_pb2
from gatehouse.users.v1 import users_pb2

from tests.support.issuer import SECRETS, LiveIssuer
from tests.support.served import Forwarder, serve_pair

DENIED = grpc.StatusCode.PERMISSION_DENIED
ALL = "read:users admin manage:roles"


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def refusal(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_a_role_given_here_is_in_the_next_token_and_gone_at_the_next_online_check(
    issuer: LiveIssuer, database_urls: dict[str, str], tmp_path: Path
) -> None:
    admin_url = f"{issuer.running.base_url}/admin/realms/gatehouse"
    async with serve_pair(issuer.issuer, admin_url, database_urls, tmp_path) as pair:
        old = await issuer.user_token("bob", ALL)
        bob = (await (await pair.as_user(old)).GetCurrentUser(users_pb2.GetCurrentUserRequest())).user_id
        alice = await pair.as_admin(await issuer.user_token("alice", ALL))
        before = await pair.as_admin(old)
        assert await refusal(before.GetStats(admin_pb2.GetStatsRequest())) is DENIED

        await alice.ManageRoles(admin_pb2.ManageRolesRequest(user_id=bob, grant_roles=["admin"]))

        async def next_token_has_it() -> bool:
            return "admin" in (await issuer.user_answer("bob", ALL)).json()["scope"].split()

        await until(next_token_has_it)
        assert await refusal(before.GetStats(admin_pb2.GetStatsRequest())) is DENIED
        new = await issuer.user_token("bob", ALL)
        after = await pair.as_admin(new)
        await after.GetStats(admin_pb2.GetStatsRequest())
        change = admin_pb2.ManageRolesRequest(user_id=bob, grant_roles=["editor"])
        await after.ManageRoles(change)

        await alice.ManageRoles(admin_pb2.ManageRolesRequest(user_id=bob, revoke_roles=["admin"]))

        async def is_gone() -> bool:
            found = await issuer.introspect(new)
            assert {"admin", "manage:roles"} <= set(str(found["scope"]).split())
            return "admin" not in str(found["realm_access"])

        await until(is_gone)
        assert await refusal(after.ManageRoles(change)) is DENIED
        assert not await next_token_has_it()

        async def nothing_is_pending() -> bool:
            measured = await pair.admin.metrics(issuer.http)
            return re.search(r"^gatehouse_role_outbox_pending\S* 0\.0$", measured, re.MULTILINE) is not None

        await until(nothing_is_pending)
        assert 'outcome="granted"' in await pair.admin.metrics(issuer.http)
    assert "role change settled" in pair.admin.log
    assert not any(secret in pair.admin.log for secret in SECRETS.values())


async def test_a_role_given_while_the_provider_takes_none_outlives_the_death_of_the_service(
    issuer: LiveIssuer, database_urls: dict[str, str], tmp_path: Path
) -> None:
    way = Forwarder(int(issuer.running.base_url.rpartition(":")[2]))
    await way.up()
    await way.down()
    admin_url = f"http://127.0.0.1:{way.port}/admin/realms/gatehouse"
    async with serve_pair(issuer.issuer, admin_url, database_urls, tmp_path) as pair:
        token = await issuer.user_token("carol", "")
        carol = (await (await pair.as_user(token)).GetCurrentUser(users_pb2.GetCurrentUserRequest())).user_id
        alice = await pair.as_admin(await issuer.user_token("alice", ALL))
        await alice.ManageRoles(admin_pb2.ManageRolesRequest(user_id=carol, grant_roles=["user"]))

        async def was_tried() -> bool:
            return "role change not delivered" in pair.admin.log

        await until(was_tried)
        assert await pair.admin.end(signal.SIGKILL) == -signal.SIGKILL
        await way.up()
        await pair.admin.start()

        async def carol_reads() -> bool:
            return bool((await issuer.user_answer("carol", "read:users")).json()["scope"] == "read:users")

        await until(carol_reads)
    await way.down()
