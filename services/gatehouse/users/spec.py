"""The ServiceSpec of UserService."""

from __future__ import annotations

from gatehouse.runtime import BuiltService, Periodic, ServiceContext, ServiceSpec
from gatehouse.settings import StandbySettings
from gatehouse.users import DEFAULT_PORT
from gatehouse.users.v1 import users_pb2

PRUNE_SECONDS = 3600.0


async def build(context: ServiceContext[StandbySettings]) -> BuiltService:
    """Build UserService, the reader of its change feed, and the jobs that prune old rows."""
    from gatehouse.storage import Notifications
    from gatehouse.users.change_feed import ChangeFeed
    from gatehouse.users.repository import UserRepository
    from gatehouse.users.service import UserService
    from gatehouse.users.tables import CHANNEL
    from gatehouse.users.watches import Watches

    repository = UserRepository(context.database, context.clock, context.standbys)
    feed = ChangeFeed(context.database, context.clock)
    notifications = Notifications(context.database.connector, CHANNEL)
    watches = Watches(feed, notifications)
    return BuiltService(
        UserService(repository, watches),
        (
            *filter(None, [context.standbys]),
            notifications,
            watches,
            Periodic(feed.prune, PRUNE_SECONDS),
            Periodic(repository.prune_request_ids, PRUNE_SECONDS),
        ),
    )


SPEC = ServiceSpec(
    name="users",
    descriptor=users_pb2.DESCRIPTOR.services_by_name["UserService"],
    default_port=DEFAULT_PORT,
    schema="users",
    probe="SELECT FROM users.users LIMIT 1",
    build=build,
    settings=StandbySettings,
)
