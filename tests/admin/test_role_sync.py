"""Delivery of role changes by service processes."""

from __future__ import annotations

import signal
from pathlib import Path

from gatehouse.admin.v1 import admin_pb2
from gatehouse.users.v1 import users_pb2
from tests.support.eventually import eventually
from tests.support.issuer import LiveIssuer
from tests.support.served import Forwarder, serve_pair
from tests.support.services import run_sql


async def test_change_survives_an_outage_of_the_provider_and_a_crash_of_the_service(
    issuer: LiveIssuer, database_urls: dict[str, str], tmp_path: Path
) -> None:
    proxy = Forwarder(int(issuer.running.base_url.rpartition(":")[2]))
    await proxy.up()
    await proxy.down()
    admin_url = f"http://127.0.0.1:{proxy.port}/admin/realms/gatehouse"
    async with serve_pair(issuer.issuer, admin_url, database_urls, tmp_path) as pair:
        users = await pair.as_user(await issuer.user_token("carol", ""))
        carol = (await users.GetCurrentUser(users_pb2.GetCurrentUserRequest())).user_id
        admin = await pair.as_admin(await issuer.user_token("alice", "read:users admin manage:roles"))
        await admin.ManageRoles(admin_pb2.ManageRolesRequest(user_id=carol, grant_roles=["user"]))
        await eventually(lambda: "role change failed" in pair.admin.log, 60)
        assert await pair.admin.end(signal.SIGKILL) == -signal.SIGKILL
        # The change may still belong to the killed process for 30 s; a test of the outbox waits for that.
        await run_sql(database_urls["owner"], "UPDATE admin.role_outbox SET lease_end = now()")
        await proxy.up()
        await pair.admin.start()

        async def carol_can_read() -> bool:
            response = await issuer.user_answer("carol", "read:users")
            return bool(response.json()["scope"] == "read:users")

        await eventually(carol_can_read, 60, 0.05)
    await proxy.down()
