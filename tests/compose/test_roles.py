"""Roles that AdminService grants and revokes reach Keycloak."""

# <part admin/>

from __future__ import annotations

import grpc

from gatehouse.client.issuer import decode
from tests.support.compose import Host, until


async def bobs_scopes(host: Host) -> set[str]:
    return set(decode(await host.user_token("bob"))["claims"]["scope"].split())


async def test_granted_role_is_in_the_next_token_and_a_revoked_one_is_refused_online(
    host: Host,
) -> None:
    alice = await host.user_token("alice")
    seen = await host.call("users", "GetCurrentUser", token=await host.user_token("bob"))
    user_id = seen.responses[0].user_id
    assert "admin" not in await bobs_scopes(host)
    given = await host.call(
        "admin", "ManageRoles", {"user_id": user_id, "grant_roles": ["admin"]}, token=alice
    )
    assert given.code is grpc.StatusCode.OK
    try:
        await until(lambda: bobs_scopes(host), lambda scopes: "admin" in scopes, 60)
        bob = await host.user_token("bob")
        assert await host.code("admin", "GetStats", bob) is grpc.StatusCode.OK
    finally:
        taken = await host.call(
            "admin", "ManageRoles", {"user_id": user_id, "revoke_roles": ["admin"]}, token=alice
        )
    assert taken.code is grpc.StatusCode.OK
    await until(lambda: bobs_scopes(host), lambda scopes: "admin" not in scopes, 60)
    # His old token still has the scope, but ManageRoles names the role and asks Keycloak now.
    change = {"user_id": user_id, "revoke_roles": ["admin"]}
    refused = await host.call("admin", "ManageRoles", change, token=bob)
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
