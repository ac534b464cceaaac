"""UserService as one value."""

from __future__ import annotations

from gatehouse.runtime import BuiltService, ServiceContext, ServiceSpec
from gatehouse.settings import ServiceSettings
from gatehouse.users.v1 import users_pb2, users_pb2_grpc

PRUNE_SECONDS = 3600.0


class UsersSettings(ServiceSettings):
    """Settings of UserService."""


async def build(context: ServiceContext[UsersSettings]) -> BuiltService:
    """Build UserService, the listener that wakes its watchers, and the job that prunes old rows."""
    from gatehouse.runtime import Periodic
    from gatehouse.storage import Notifications
    from gatehouse.users.repository import UserRepository
    from gatehouse.users.service import UserService
    from gatehouse.users.tables import CHANNEL

    repository = UserRepository(context.database, context.clock)
    notifications = Notifications(context.database.url, CHANNEL)
    return BuiltService(
        UserService(repository, notifications), (notifications, Periodic(repository.prune, PRUNE_SECONDS))
    )


SPEC = ServiceSpec(
    name="users",
    descriptor=users_pb2.DESCRIPTOR.services_by_name["UserService"],
    register=users_pb2_grpc.add_UserServiceServicer_to_server,
    default_port=50051,
    schema="users",
    probe="SELECT FROM users.users LIMIT 1",
    build=build,
    settings=UsersSettings,
)
