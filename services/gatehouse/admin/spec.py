"""The ServiceSpec of AdminService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gatehouse.admin import DEFAULT_PORT
from gatehouse.admin.settings import AdminSettings
from gatehouse.admin.v1 import admin_pb2
from gatehouse.runtime import BuiltService, ServiceContext, ServiceSpec

if TYPE_CHECKING:
    from gatehouse.client import TokenSource
    from gatehouse.runtime import BackgroundWork
    from gatehouse.runtime.doctor import Result
    from gatehouse.users.v1 import users_pb2_grpc


async def build(context: ServiceContext[AdminSettings]) -> BuiltService:
    """Build AdminService, its channels to UserService and, if configured, the delivery of role changes."""
    from gatehouse.admin.clients import CLIENT, caller_tokens, client_credentials
    from gatehouse.admin.repository import AdminRepository
    from gatehouse.admin.service import AdminService

    settings = context.settings
    on_behalf = settings.call_users_as == "caller"
    own = await _users(context, client_credentials(context, settings.client, CLIENT))
    users = await _users(context, caller_tokens(context)) if on_behalf else own
    service = AdminService(AdminRepository(context.database, context.clock), users, on_behalf=on_behalf)
    return BuiltService(service, _role_sync(context, own))


async def _users(
    context: ServiceContext[AdminSettings], tokens: TokenSource
) -> users_pb2_grpc.UserServiceAsyncStub:
    """Return UserService, called with tokens of a source."""
    from gatehouse.client import connect
    from gatehouse.users.v1 import users_pb2_grpc

    channel = await context.exit_stack.enter_async_context(
        connect(
            context.settings.users_target,
            tls=context.client_tls,
            tokens=tokens,
            tracer=context.tracer,
            options=context.channel_options,
        )
    )
    users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(channel)
    return users


def _role_sync(
    context: ServiceContext[AdminSettings], users: users_pb2_grpc.UserServiceAsyncStub
) -> list[BackgroundWork]:
    from gatehouse.admin.clients import issuer_of, role_directory
    from gatehouse.admin.delivery import DeliverySchedule, RoleDelivery
    from gatehouse.admin.metrics import DeliveryMetrics
    from gatehouse.admin.outbox import RoleOutbox
    from gatehouse.admin.tables import CHANNEL
    from gatehouse.storage import Notifications

    settings = context.settings.role_sync
    if not settings.admin_url:
        return []
    directory = role_directory(context)
    notifications = Notifications(context.database.connector, CHANNEL)
    delivery = RoleDelivery(
        RoleOutbox(context.database),
        users,
        directory,
        notifications,
        issuer=issuer_of(context, settings),
        logger=context.logger,
        metrics=DeliveryMetrics(context.meter),
        tracer=context.tracer,
        schedule=DeliverySchedule(poll=settings.poll_seconds),
    )
    return [notifications, delivery]


async def check(context: ServiceContext[AdminSettings]) -> Sequence[Result]:
    """See gatehouse.admin.checks."""
    from gatehouse.admin.checks import check

    return await check(context)


SPEC = ServiceSpec(
    name="admin",
    descriptor=admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    default_port=DEFAULT_PORT,
    schema="admin",
    probe="SELECT FROM admin.role_bindings, admin.role_outbox LIMIT 1",
    build=build,
    settings=AdminSettings,
    checks=check,
)
