"""Services on a real database and real servers, with a table of access tokens."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
import structlog
from google.rpc import error_details_pb2

# <part admin>
from gatehouse.admin.repository import AdminRepository
from gatehouse.admin.service import AdminService
from gatehouse.admin.v1 import admin_pb2_grpc

# </part admin>
from gatehouse.client import TokenSource, connect
from gatehouse.rpc import Server, ServerTelemetry, Service
from gatehouse.settings import ServerSettings
from gatehouse.storage import Database, Notifications
from gatehouse.users.change_feed import ChangeFeed
from gatehouse.users.repository import UserRepository
from gatehouse.users.service import UserService
from gatehouse.users.tables import CHANNEL
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from gatehouse.users.watches import Watches
from tests.support.rpc import PLAINTEXT, TableVerifier, details_of, principal
from tests.support.scopes import EVERY_ROLE, EVERY_SCOPE

SECONDS = 60.0
ALL_SCOPES = tuple(EVERY_SCOPE.split())


class FixedToken:
    """A TokenSource with one token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token

    def invalidate(self, token: str) -> None:
        """Do nothing: there is no other token."""


@dataclass
class Services:
    """Running services.

    Attributes:
        verifier: Verifier of both servers.
        users: UserService, called by alice, who has all scopes.
        users_as_bob: UserService, called by bob, whose principal a test may replace in `verifier`.
        users_server: Server of UserService.
        repository: Repository of UserService.
        feed: Change feed of UserService.
    """

    verifier: TableVerifier
    users: users_pb2_grpc.UserServiceAsyncStub
    users_as_bob: users_pb2_grpc.UserServiceAsyncStub
    # <part admin>
    admin: admin_pb2_grpc.AdminServiceAsyncStub
    # </part admin>
    users_server: Server
    repository: UserRepository
    feed: ChangeFeed

    async def create_user(self, **fields: Any) -> users_pb2.User:
        """Create a user as alice."""
        user = users_pb2.User(**{"email": random_email(), "display_name": "Bob", **fields})
        return await self.users.CreateUser(users_pb2.CreateUserRequest(user=user))


def random_email() -> str:
    """Return an email that no other user has."""
    return f"{uuid.uuid4().hex}@example.test"


async def invalid_fields(call: Any) -> list[str]:
    """Return the fields that a call is rejected for with INVALID_ARGUMENT."""
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    return [
        violation.field
        for detail in details_of(await call.trailing_metadata())
        if isinstance(detail, error_details_pb2.BadRequest)
        for violation in detail.field_violations
    ]


async def run_sql(url: str, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
    """Run a statement on a connection of its own and return its rows."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement, parameters)
        return await cursor.fetchall() if cursor.description else []


def quiet() -> Any:
    """Return a logger that drops every line."""

    def drop(*_: object) -> str:
        raise structlog.DropEvent

    return structlog.wrap_logger(None, processors=[drop])


@asynccontextmanager
async def open_services(
    urls: dict[str, str], admin_tokens: TokenSource | None = None
) -> AsyncIterator[Services]:
    """Serve the services on the database at `urls`.

    AdminService calls UserService with its own token, or on behalf of its callers with `admin_tokens`.
    """
    verifier = TableVerifier()
    verifier.answers["alice"] = principal(*ALL_SCOPES, roles=EVERY_ROLE, subject="subject-of-alice")
    verifier.answers["bob"] = principal("read:users", subject="subject-of-bob")
    # <part admin>
    verifier.answers["admin-service"] = principal("read:users", subject="subject-of-admin-service")
    # </part admin>
    # A slow machine exceeds no deadline.
    settings = ServerSettings(health_poll_seconds=0.02, max_deadline_seconds=SECONDS)
    async with AsyncExitStack() as stack:

        def open_database(service: str) -> Database:
            database = Database(urls[service], pool_size=5)
            stack.push_async_callback(database.aclose)
            return database

        async def serve(service: Service) -> tuple[Server, str]:
            server = Server(
                [service],
                verifier=verifier,
                tls=PLAINTEXT,
                telemetry=ServerTelemetry(quiet()),
                settings=settings,
            )
            port = await server.start()
            stack.push_async_callback(server.stop, 0)
            return server, f"127.0.0.1:{port}"

        async def open_channel(target: str, tokens: TokenSource) -> grpc.aio.Channel:
            return await stack.enter_async_context(
                connect(target, tls=PLAINTEXT, tokens=tokens, deadline=SECONDS)
            )

        users_database = open_database("users")
        repository = UserRepository(users_database, time.time)
        feed = ChangeFeed(users_database, time.time)
        notifications = Notifications(users_database.connector, CHANNEL)
        await notifications.start()
        stack.push_async_callback(notifications.aclose)
        watches = Watches(feed, notifications)
        await watches.start()
        stack.push_async_callback(watches.aclose)
        users_server, users_target = await serve(
            Service(users_pb2_grpc.add_UserServiceServicer_to_server, UserService(repository, watches))
        )
        # <part admin>
        admin_service = AdminService(
            AdminRepository(open_database("admin"), time.time),
            users_pb2_grpc.UserServiceStub(
                await open_channel(users_target, admin_tokens or FixedToken("admin-service"))
            ),
            on_behalf=admin_tokens is not None,
        )
        _, admin_target = await serve(
            Service(admin_pb2_grpc.add_AdminServiceServicer_to_server, admin_service)
        )
        # </part admin>
        yield Services(
            verifier=verifier,
            users=users_pb2_grpc.UserServiceStub(await open_channel(users_target, FixedToken("alice"))),
            users_as_bob=users_pb2_grpc.UserServiceStub(await open_channel(users_target, FixedToken("bob"))),
            # <part admin>
            admin=admin_pb2_grpc.AdminServiceStub(await open_channel(admin_target, FixedToken("alice"))),
            # </part admin>
            users_server=users_server,
            repository=repository,
            feed=feed,
        )


@pytest.fixture
async def services(database_urls: dict[str, str]) -> AsyncIterator[Services]:
    """Both services on the database of this test module."""
    async with open_services(database_urls) as opened:
        yield opened
