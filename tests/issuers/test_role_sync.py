"""Role changes from ManageRoles to the issuer under test, with services in processes and a database."""

# <part admin/>

from __future__ import annotations

import re
from collections.abc import Awaitable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from gatehouse.admin.v1 import admin_pb2
from gatehouse.users.v1 import users_pb2
from tests.issuers.idp import SCOPES, Idp
from tests.support.eventually import eventually
from tests.support.issuer import SECRETS
from tests.support.served import serve_pair

DENIED = grpc.StatusCode.PERMISSION_DENIED
STATS = admin_pb2.GetStatsRequest()


async def refusal_of(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_granted_role_is_in_the_next_token_and_a_revoked_one_is_refused_online(
    idp: Idp, database_urls: dict[str, str], tmp_path: Path
) -> None:
    admin_url = f"{idp.base_url}/admin/realms/{idp.realm}"
    async with serve_pair(idp.issuer, admin_url, database_urls, tmp_path) as pair:
        old = await idp.user_token("bob", SCOPES)
        bob = (await (await pair.as_user(old)).GetCurrentUser(users_pb2.GetCurrentUserRequest())).user_id
        alice = await pair.as_admin(await idp.user_token("alice", SCOPES))
        before = await pair.as_admin(old)
        assert await refusal_of(before.GetStats(STATS)) is DENIED

        await alice.ManageRoles(admin_pb2.ManageRolesRequest(user_id=bob, grant_roles=["admin"]))
        try:

            async def next_token_has_it() -> bool:
                return "admin" in (await idp.user_tokens("bob", SCOPES))["scope"].split()

            await eventually(next_token_has_it, 60)
            assert await refusal_of(before.GetStats(STATS)) is DENIED
            new = await idp.user_token("bob", SCOPES)
            after = await pair.as_admin(new)
            await after.GetStats(STATS)
            nothing = admin_pb2.ManageRolesRequest(user_id=bob, revoke_roles=["never-given"])
            await after.ManageRoles(nothing)
        finally:
            await alice.ManageRoles(admin_pb2.ManageRolesRequest(user_id=bob, revoke_roles=["admin"]))

            async def is_gone() -> bool:
                return not await next_token_has_it()

            await eventually(is_gone, 60)
        found = await idp.introspect(new)
        assert {"admin", "manage:roles"} <= set(found["scope"].split())
        assert "admin" not in found["realm_access"]["roles"]
        assert await refusal_of(after.ManageRoles(nothing)) is DENIED

        async def nothing_is_pending() -> bool:
            measured = await pair.admin.metrics(idp.http)
            return re.search(r"^gatehouse_role_outbox_pending\S* 0\.0$", measured, re.MULTILINE) is not None

        await eventually(nothing_is_pending, 60)
        assert 'outcome="granted"' in await pair.admin.metrics(idp.http)
    assert "role change completed" in pair.admin.log
    assert not any(secret in pair.admin.log for secret in SECRETS.values())
