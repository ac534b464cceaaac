"""A reset undoes everything that a test can change."""

# <part admin/>

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import httpx
import jwt
import psycopg
import pytest
from psycopg import sql

from gatehouse.admin.v1 import admin_pb2, admin_pb2_grpc
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse_testbed.bed.client import Testbed
from gatehouse_testbed.bed.control import openapi
from gatehouse_testbed.bed.database import SNAPSHOT
from gatehouse_testbed.bed.tokens import NAMED_TOKENS
from tests.support.eventually import eventually

TABLES = """
SELECT schemaname, tablename FROM pg_tables
WHERE schemaname <> ALL(ARRAY['pg_catalog', 'information_schema', %s]) AND tablename NOT LIKE 'alembic%%'
"""
EXPECTED = {name: "OK" if kind.accepted else "UNAUTHENTICATED" for name, kind in NAMED_TOKENS.items()}
FAULTS: tuple[dict[str, Any], ...] = (
    {"target": "GetUser", "code": "ABORTED"},
    {"target": "GetUser", "disconnect": True},
    {"target": "issuer/*", "status": 503},
    {"target": "issuer/jwks", "response": {"keys": []}},
    {"target": "database", "state": "down"},
    {"target": "database", "state": "hanging"},
    {"target": "network/database", "reset": True},
    {"target": "network/issuer", "refuse": True},
    {"target": "network/users", "blackhole": True},
    {"target": "network/users", "reset": True},
    {"target": "network/users", "refuse": True},
    {"target": "network/users", "certificate": "expired"},
)
# Whether a change is still to be seen.
Visible = Callable[[], Awaitable[bool]]
Change = Callable[["Bed"], Awaitable[Visible]]


def authorization(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


class Bed:
    """The test bed as stock clients see it."""

    def __init__(
        self, testbed: Testbed, http: httpx.AsyncClient, channels: dict[str, grpc.aio.Channel]
    ) -> None:
        self.testbed = testbed
        self.http = http
        self.users: Any = users_pb2_grpc.UserServiceStub(channels["users"])
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(channels["admin"])

    async def call(self, rpc: Any, request: Any, token: str, timeout: float = 20) -> grpc.StatusCode:
        call = rpc(request, metadata=authorization(token), timeout=timeout, wait_for_ready=True)
        code: grpc.StatusCode = await call.code()
        return code

    async def get_bob(self, token: str, timeout: float = 20) -> grpc.StatusCode:
        request = users_pb2.GetUserRequest(user_id=self.testbed.users["bob"])
        return await self.call(self.users.GetUser, request, token, timeout)

    async def get_stats(self, timeout: float = 20) -> grpc.StatusCode:
        """Call AdminService, which calls UserService."""
        token = self.testbed.token("alice")
        return await self.call(self.admin.GetStats, admin_pb2.GetStatsRequest(), token, timeout)

    async def answers(self) -> dict[str, str]:
        """Return the answer to each named token."""
        tokens = {name: self.testbed.token("alice", name=name) for name in NAMED_TOKENS}
        return {name: (await self.get_bob(token)).name for name, token in tokens.items()}

    async def manage_roles(self, user: str, role: str) -> grpc.StatusCode:
        request = admin_pb2.ManageRolesRequest(user_id=self.testbed.users[user], grant_roles=[role])
        return await self.call(self.admin.ManageRoles, request, self.testbed.token("alice"))

    def has_role(self, user: str, role: str) -> bool:
        claims = jwt.decode(self.testbed.token(user), options={"verify_signature": False})
        return role in claims.get("realm_access", {"roles": []})["roles"]

    async def is_active(self, token: str) -> bool:
        answer = await self.http.post(
            f"{self.testbed.issuer}/protocol/openid-connect/token/introspect",
            data={"token": token},
            auth=("gatehouse-api", self.testbed.clients["gatehouse-api"]),
        )
        return bool(answer.json()["active"])

    async def published(self) -> set[str]:
        answer = await self.http.get(f"{self.testbed.issuer}/protocol/openid-connect/certs")
        return {key["kid"] for key in answer.json()["keys"]}

    @asynccontextmanager
    async def database(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Connect as the owner of the database."""
        state = json.loads((self.testbed.ca_file.parents[1] / "pg.json").read_text())
        login = f"postgres:{quote(state['passwords']['postgres'], safe='')}"
        url = f"postgresql://{login}@127.0.0.1:{state['port']}/gatehouse"
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            yield connection

    async def content(self) -> dict[str, str | None]:
        """Return a digest of each table of the services."""
        async with self.database() as connection:
            tables = await (await connection.execute(TABLES, [SNAPSHOT])).fetchall()
            assert len(tables) >= 5
            query = sql.SQL("SELECT {}, md5(string_agg(row::text, ',' ORDER BY row::text)) FROM {} AS row")
            parts = [query.format(".".join(name), sql.Identifier(*name)) for name in tables]
            return dict(await (await connection.execute(sql.SQL(" UNION ALL ").join(parts))).fetchall())


@pytest.fixture
async def bed(gatehouse: Testbed) -> AsyncIterator[Bed]:
    credentials = grpc.ssl_channel_credentials(gatehouse.ca_file.read_bytes())
    options = [("grpc.max_reconnect_backoff_ms", 100)]
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        grpc.aio.secure_channel(gatehouse.targets["users"], credentials, options) as users,
        grpc.aio.secure_channel(gatehouse.targets["admin"], credentials, options) as admin,
    ):
        yield Bed(gatehouse, http, {"users": users, "admin": admin})


async def tables(bed: Bed) -> Visible:
    before = await bed.content()
    async with bed.database() as connection:
        await connection.execute("SET session_replication_role = replica")
        for name in await (await connection.execute(TABLES, [SNAPSHOT])).fetchall():
            await connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(*name)))

    async def visible() -> bool:
        return await bed.content() != before

    return visible


async def user(bed: Bed) -> Visible:
    token = bed.testbed.token("alice")
    new = {"email": "new@example.test", "display_name": "New"}
    request = users_pb2.CreateUserRequest(user=new, request_id=str(uuid.uuid4()))
    created = await bed.users.CreateUser(request, metadata=authorization(token), timeout=20)

    async def visible() -> bool:
        wanted = users_pb2.GetUserRequest(user_id=created.user_id)
        code = await bed.call(bed.users.GetUser, wanted, bed.testbed.token("alice"))
        return code is not grpc.StatusCode.NOT_FOUND

    return visible


async def role(bed: Bed) -> Visible:
    assert await bed.manage_roles("bob", "editor") is grpc.StatusCode.OK
    await eventually(lambda: bed.has_role("bob", "editor"))

    async def visible() -> bool:
        return bed.has_role("bob", "editor")

    return visible


async def clock(bed: Bed) -> Visible:
    bed.testbed.clock.advance(days=1)
    assert (
        await bed.answers() == EXPECTED
    )  # the services get new tokens, which are not yet valid after the reset

    async def visible() -> bool:
        return bed.testbed.clock.ahead_seconds > 0

    return visible


async def skew(bed: Bed) -> Visible:
    bed.testbed.clock.skew_issuer(-3600)

    async def visible() -> bool:
        return await bed.get_bob(bed.testbed.token("alice")) is grpc.StatusCode.UNAUTHENTICATED

    return visible


def keys(*, overlap: bool) -> Change:
    async def change(bed: Bed) -> Visible:
        before = await bed.published()
        bed.testbed.rotate_keys(overlap=overlap)
        assert await bed.answers() == EXPECTED
        assert await bed.get_stats() is grpc.StatusCode.OK

        async def visible() -> bool:
            return await bed.published() != before

        return visible

    return change


async def session(bed: Bed) -> Visible:
    token = bed.testbed.token("alice")

    async def visible() -> bool:
        return await bed.is_active(token)

    return visible


async def revocation(bed: Bed) -> Visible:
    token = bed.testbed.token(client="gatehouse-worker")
    assert await bed.is_active(token)
    bed.testbed.revoke(token)

    async def visible() -> bool:
        return not await bed.is_active(token)

    return visible


async def records(bed: Bed) -> Visible:
    assert await bed.get_bob(bed.testbed.token("alice")) is grpc.StatusCode.OK
    seen = (bed.testbed.calls, bed.testbed.spans, bed.testbed.logs, bed.testbed.issuer_requests)

    async def has_all() -> bool:
        return all(records() for records in seen)

    await eventually(has_all)

    async def visible() -> bool:
        return any(records() for records in seen)

    return visible


def fault(effects: dict[str, Any]) -> Change:
    async def change(bed: Bed) -> Visible:
        bed.testbed.faults.add(**effects)
        # What the services keep of a failure, such as a pause before the next attempt, must end as well.
        # As do failures that are so many that the services no longer repeat calls of each other.
        count = 25 if effects["target"] == "network/users" else 1
        calls = (bed.get_stats(0.5) for _ in range(count))
        await asyncio.gather(bed.get_bob(bed.testbed.token("alice"), 0.3), *calls)

        async def visible() -> bool:
            return bool(bed.testbed.faults.list())

        return visible

    return change


CHANGES: dict[str, Change] = {
    "tables": tables,
    "user": user,
    "role": role,
    "clock": clock,
    "clock of the issuer": skew,
    "keys with overlap": keys(overlap=True),
    "keys without overlap": keys(overlap=False),
    "session": session,
    "revoked token": revocation,
    "records": records,
    **{" ".join(map(str, effects.values())): fault(effects) for effects in FAULTS},
}


@pytest.mark.parametrize("name", CHANGES)
async def test_reset_undoes(bed: Bed, name: str) -> None:
    before = await bed.content()
    visible = await CHANGES[name](bed)
    assert await visible()
    bed.testbed.reset()
    if name.startswith("network/users"):
        assert await bed.get_stats() is grpc.StatusCode.OK  # the first call
    assert not await visible()
    assert await bed.content() == before
    assert await bed.answers() == EXPECTED
    assert await bed.get_stats() is grpc.StatusCode.OK
    assert await bed.content() == before


def test_changes_are_all_that_the_control_api_makes() -> None:
    """A new endpoint that changes something belongs into CHANGES."""
    paths = {path for path, methods in openapi()["paths"].items() if methods.keys() - {"get"}}
    assert paths == {
        "/reset",
        "/tokens",  # session
        "/tokens/revoke",
        "/faults",
        "/faults/{name}",
        "/clock",
        "/clock/skew",
        "/issuer/keys/rotate",
    }


async def test_role_that_is_being_delivered_is_not_granted_after_a_reset(bed: Bed) -> None:
    for _ in range(5):
        assert await bed.manage_roles("bob", "editor") is grpc.StatusCode.OK
        bed.testbed.reset()
    # Changes are delivered one after the other.
    assert await bed.manage_roles("carol", "editor") is grpc.StatusCode.OK
    await eventually(lambda: bed.has_role("carol", "editor"))
    assert not bed.has_role("bob", "editor")
