"""UserService and AdminService on a real database and a real server; the verifier knows a table of tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog

from gatehouse.admin.repository import AdminRepository
from gatehouse.admin.service import AdminService
from gatehouse.admin.v1 import admin_pb2_grpc
from gatehouse.client import ClientTls, connect
from gatehouse.rpc import Server, ServerTelemetry, Service
from gatehouse.settings import ServerSettings
from gatehouse.storage import Database, Notifications
from gatehouse.users.repository import UserRepository
from gatehouse.users.service import UserService
from gatehouse.users.tables import CHANNEL
from gatehouse.users.v1 import users_pb2_grpc
from tests.support.rpc import PLAINTEXT, TableVerifier, principal

ALL_SCOPES = ("read:users", "write:users", "delete:users", "admin", "manage:roles")


class FixedToken:
    """A TokenSource that has one token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token

    def invalidate(self, token: str) -> None:
        """There is no other."""


@dataclass
class Services:
    """The services and how to call them."""

    verifier: TableVerifier
    users: users_pb2_grpc.UserServiceAsyncStub
    admin: admin_pb2_grpc.AdminServiceAsyncStub
    users_server: Server
    repository: UserRepository
    database: Database
    open_stub: Callable[[str], users_pb2_grpc.UserServiceAsyncStub]


def quiet() -> Any:
    """A logger that drops every line."""

    def drop(*_: object) -> str:
        raise structlog.DropEvent

    return structlog.wrap_logger(None, processors=[drop])


@asynccontextmanager
async def open_services(urls: dict[str, str]) -> AsyncIterator[Services]:
    """Opens the services on the database of `urls`."""
    verifier = TableVerifier()
    verifier.answers["alice"] = principal(*ALL_SCOPES, roles=("admin",), subject="subject-of-alice")
    verifier.answers["bob"] = principal("read:users", subject="subject-of-bob")
    verifier.answers["admin-service"] = principal("read:users", subject="subject-of-admin-service")
    settings = ServerSettings(health_poll_seconds=0.02)
    async with AsyncExitStack() as stack:

        async def opened(role: str) -> Database:
            database = Database(urls[role], pool_size=5)
            stack.push_async_callback(database.aclose)
            return database

        async def served(service: Service) -> tuple[Server, str]:
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

        async def channel(target: str, token: str) -> grpc.aio.Channel:
            return await stack.enter_async_context(
                connect(target, tls=ClientTls(plaintext=True), tokens=FixedToken(token))
            )

        users_database = await opened("users")
        notifications = Notifications(urls["users"], CHANNEL)
        await notifications.start()
        stack.push_async_callback(notifications.aclose)
        repository = UserRepository(users_database, time.time)
        users_server, users_target = await served(
            Service(users_pb2_grpc.add_UserServiceServicer_to_server, UserService(repository, notifications))
        )
        own = users_pb2_grpc.UserServiceStub(await channel(users_target, "admin-service"))
        admin_repository = AdminRepository(await opened("admin"), time.time)
        _, admin_target = await served(
            Service(admin_pb2_grpc.add_AdminServiceServicer_to_server, AdminService(admin_repository, own))
        )
        bob = users_pb2_grpc.UserServiceStub(await channel(users_target, "bob"))
        yield Services(
            verifier=verifier,
            users=users_pb2_grpc.UserServiceStub(await channel(users_target, "alice")),
            admin=admin_pb2_grpc.AdminServiceStub(await channel(admin_target, "alice")),
            users_server=users_server,
            repository=repository,
            database=users_database,
            open_stub=lambda _: bob,
        )


@pytest.fixture
async def services(database_urls: dict[str, str]) -> AsyncIterator[Services]:
    """The services on the database of this test module."""
    async with open_services(database_urls) as opened:
        yield opened
