"""The outbox of roles with all that is around it: services, a provider, and any number of workers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import structlog
from opentelemetry.trace import Tracer

from gatehouse.admin.delivery import DeliveryMetrics, Pace, RoleDelivery
from gatehouse.admin.keycloak_roles import KeycloakRoles
from gatehouse.admin.outbox import RoleOutbox
from gatehouse.admin.tables import CHANNEL, role_outbox
from gatehouse.admin.v1 import admin_pb2
from gatehouse.storage import Actor, Database, Notifications
from tests.support.provider import LoopbackRealm
from tests.support.services import FixedToken, Services

ISSUER = "https://issuer.test"
QUICK = Pace(
    poll=0.02,
    first_retry=0.01,
    longest_outage_retry=0.05,
    longest_retry=0.05,
    backlog=0.0,
    prune=0.0,
    stop=0.1,
)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns as soon as `condition` holds, and fails when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


@dataclass
class Stage:
    """What the tests of the outbox act on; `lines` are the log lines of the workers."""

    services: Services
    provider: LoopbackRealm
    database: Database
    http: httpx.AsyncClient
    outbox: RoleOutbox
    lines: list[dict[str, Any]] = field(default_factory=list)
    workers: list[RoleDelivery] = field(default_factory=list)
    notifications: list[Notifications] = field(default_factory=list)

    async def person(self, *, issuer: str = ISSUER, seen: bool = True) -> tuple[str, str]:
        """Makes a user whom the provider knows; returns user id and subject."""
        subject = str(uuid.uuid4())
        self.provider.held[subject] = {"user"}
        if not seen:
            return await self.imported(), subject
        actor = Actor(subject, "console", "test")
        made = await self.services.repository.current(issuer, subject, "", "Bob", actor)
        return made.user_id, subject

    async def imported(self) -> str:
        """Makes a user whom no provider has bound to an identity."""
        rows = [(f"{uuid.uuid4().hex}@example.test", "Bob")]
        await self.services.repository.insert_many(rows, Actor("alice", "console", "test"))
        page = await self.services.repository.list(f'email = "{rows[0][0]}"', "", "", 1)
        return page.rows[0].user_id

    async def manage(self, user_id: str, *, grant: Sequence[str] = (), revoke: Sequence[str] = ()) -> None:
        """Has alice give and take roles."""
        await self.services.admin.ManageRoles(
            admin_pb2.ManageRolesRequest(user_id=user_id, grant_roles=grant, revoke_roles=revoke)
        )

    async def worker(
        self,
        *,
        outbox: RoleOutbox | None = None,
        pace: Pace = QUICK,
        metrics: DeliveryMetrics | None = None,
        tracer: Tracer | None = None,
        start: bool = True,
    ) -> RoleDelivery:
        """Makes a worker, and starts it."""
        listening = Notifications(self.database.url, CHANNEL)
        await listening.start()
        self.notifications.append(listening)
        made = RoleDelivery(
            outbox or self.outbox,
            self.services.users,
            KeycloakRoles(self.http, FixedToken("good"), self.provider.admin_url),
            listening,
            issuer=ISSUER,
            logger=self.logger(),
            metrics=metrics,
            tracer=tracer,
            pace=pace,
        )
        self.workers.append(made)
        if start:
            await made.start()
        return made

    def logger(self) -> Any:
        """A logger that keeps what it is told."""

        def keep(_: object, __: str, line: Any) -> str:
            self.lines.append(dict(line))
            raise structlog.DropEvent

        return structlog.wrap_logger(None, processors=[keep])

    async def rows(self) -> list[Any]:
        """Returns all rows of the outbox."""
        async with self.database.read() as connection:
            return list((await connection.execute(sa.select(role_outbox))).all())

    async def settled(self, *, but: int = 0, seconds: float = 20.0) -> None:
        """Returns when nothing is pending, `but` so many changes."""
        deadline = time.monotonic() + seconds
        while (await self.outbox.backlog()).pending != but:
            assert time.monotonic() < deadline, await self.rows()
            await asyncio.sleep(0.01)


@pytest.fixture
async def stage(
    services: Services, provider: LoopbackRealm, database_urls: dict[str, str]
) -> AsyncIterator[Stage]:
    """A stage with an empty outbox."""
    database = Database(database_urls["admin"], pool_size=5)
    async with database.write() as connection:
        await connection.execute(role_outbox.delete())
    async with httpx.AsyncClient() as http:
        opened = Stage(services, provider, database, http, RoleOutbox(database, 0.5))
        try:
            yield opened
        finally:
            for worker in opened.workers:
                await worker.aclose()
            for listening in opened.notifications:
                await listening.aclose()
            await database.aclose()
