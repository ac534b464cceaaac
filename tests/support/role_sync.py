"""Everything around the role outbox: both services, a fake Keycloak, and any number of workers."""

# <part admin/>

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import structlog
from opentelemetry.trace import Tracer

from gatehouse.admin.delivery import DeliverySchedule, RoleDelivery
from gatehouse.admin.keycloak import KeycloakRoleDirectory
from gatehouse.admin.metrics import DeliveryMetrics
from gatehouse.admin.outbox import RoleOutbox
from gatehouse.admin.tables import CHANNEL, role_outbox
from gatehouse.admin.v1 import admin_pb2
from gatehouse.storage import Caller, Database, Notifications
from tests.support.eventually import eventually
from tests.support.keycloak_admin import FakeKeycloak
from tests.support.oauth_fixtures import tls_context
from tests.support.services import FixedToken, Services

ISSUER = "https://issuer.test"
FAST = DeliverySchedule(
    poll=0.02,
    first_retry=0.01,
    max_outage_retry=0.05,
    max_retry=0.05,
    backlog=0.0,
    prune=0.0,
    stop=0.1,
)


@dataclass
class RoleSync:
    """The parts that a test acts on. `log` has the log lines of the workers."""

    services: Services
    keycloak: FakeKeycloak
    database: Database
    http: httpx.AsyncClient
    outbox: RoleOutbox
    stack: AsyncExitStack
    log: list[dict[str, Any]] = field(default_factory=list)

    async def add_user(self, *, issuer: str = ISSUER, signed_in: bool = True) -> tuple[str, str]:
        """Add a user to Keycloak and to UserService; return the user id and the subject.

        Args:
            issuer: Issuer of the user in UserService.
            signed_in: Whether UserService knows the identity of the user.
        """
        subject = str(uuid.uuid4())
        self.keycloak.user_roles[subject] = {"user"}
        if not signed_in:
            return (await self.services.create_user()).user_id, subject
        caller = Caller(ISSUER, subject, "console", "test")
        user = await self.services.repository.get_or_create(issuer, subject, "", "Bob", caller)
        return user.user_id, subject

    async def change_roles(
        self, user_id: str, *, grant: Sequence[str] = (), revoke: Sequence[str] = ()
    ) -> None:
        """Grant and revoke roles as alice."""
        await self.services.admin.ManageRoles(
            admin_pb2.ManageRolesRequest(user_id=user_id, grant_roles=grant, revoke_roles=revoke)
        )

    async def bound_roles(self, user_id: str) -> set[str]:
        """Return the roles of a user in AdminService."""
        response = await self.services.admin.ListRoleBindings(
            admin_pb2.ListRoleBindingsRequest(user_id=user_id)
        )
        return {binding.role for binding in response.role_bindings}

    async def open_worker(
        self,
        *,
        outbox: RoleOutbox | None = None,
        schedule: DeliverySchedule = FAST,
        metrics: DeliveryMetrics | None = None,
        tracer: Tracer | None = None,
        start: bool = True,
    ) -> RoleDelivery:
        """Return a worker, which runs unless `start` is false."""
        notifications = Notifications(self.database.connector, CHANNEL)
        worker = RoleDelivery(
            outbox or self.outbox,
            self.services.users,
            KeycloakRoleDirectory(self.http, FixedToken("good"), self.keycloak.base_url),
            notifications,
            issuer=ISSUER,
            logger=self._logger(),
            metrics=metrics,
            tracer=tracer,
            schedule=schedule,
        )
        self.stack.push_async_callback(notifications.aclose)
        self.stack.push_async_callback(worker.aclose)
        await notifications.start()
        if start:
            await worker.start()
        return worker

    def _logger(self) -> Any:
        def keep(_: object, __: str, line: Any) -> str:
            self.log.append(dict(line))
            raise structlog.DropEvent

        return structlog.wrap_logger(None, processors=[keep])

    def logged(self, key: str) -> list[Any]:
        """Return the values of `key` in the log."""
        return [line[key] for line in self.log if key in line]

    async def rows(self) -> list[Any]:
        """Return all rows of the outbox."""
        async with self.database.read() as connection:
            return list((await connection.execute(sa.select(role_outbox))).all())

    async def pending(self) -> int:
        """Return the number of pending changes."""
        return (await self.outbox.backlog()).pending

    async def until_delivered(self, *, but: int = 0) -> None:
        """Wait until only `but` changes are pending."""

        async def delivered() -> bool:
            return await self.pending() == but

        await eventually(delivered)


@pytest.fixture
async def role_sync(
    services: Services, keycloak: FakeKeycloak, database_urls: dict[str, str]
) -> AsyncIterator[RoleSync]:
    """A RoleSync with an empty outbox and no worker."""
    async with AsyncExitStack() as stack:
        database = Database(database_urls["admin"], pool_size=5)
        stack.push_async_callback(database.aclose)
        async with database.write() as connection:
            await connection.execute(role_outbox.delete())
        http = await stack.enter_async_context(httpx.AsyncClient(verify=tls_context()))
        yield RoleSync(services, keycloak, database, http, RoleOutbox(database, 0.5), stack)
