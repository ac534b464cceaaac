"""Role bindings on their way to the provider, through its outage and the death of the service."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gatehouse.admin.v1 import admin_pb2
from gatehouse.users.v1 import users_pb2
from tests.support.issuer import LiveIssuer
from tests.support.served import Forwarder, serve_pair

ALL = "read:users admin manage:roles"


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ADMIN_URL": "https://id.test/admin/realms/r"},
            "GATEHOUSE_ADMIN__ROLE_SYNC__CLIENT_SECRET: is missing",
        ),
        (
            {"ADMIN_URL": "http://id.test/admin/realms/r", "CLIENT_SECRET": "canary"},
            "GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL: url_not_https",
        ),
        (
            {"ADMIN_URL": "nonsense", "CLIENT_SECRET": "canary"},
            "GATEHOUSE_ADMIN__ROLE_SYNC__ADMIN_URL: url_malformed",
        ),
    ],
)
async def test_a_role_sync_that_cannot_work_is_one_line(
    database_urls: dict[str, str], settings: dict[str, str], message: str
) -> None:
    accepted = {"issuer": "https://id.test/realms/r", "audience": "gatehouse-api", "mode": "jwt"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEHOUSE_")} | {
        "GATEHOUSE_ISSUERS": json.dumps([accepted]),
        "GATEHOUSE_TLS__PLAINTEXT": "true",
        "GATEHOUSE_ADMIN__PORT": "0",
        "GATEHOUSE_ADMIN__CLIENT__CLIENT_ID": "gatehouse-admin-service",
        "GATEHOUSE_ADMIN__CLIENT__CLIENT_SECRET": "canary",
        "GATEHOUSE_ADMIN__DATABASE_URL": database_urls["admin"],
        **{f"GATEHOUSE_ADMIN__ROLE_SYNC__{name}": value for name, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatehouse", "serve", "admin"), env=environment, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    said = err.decode()
    assert process.returncode == 2
    assert said.startswith(f"gatehouse: {message}")
    assert said.count("\n") == 1
    assert "canary" not in said
