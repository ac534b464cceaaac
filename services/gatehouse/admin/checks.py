"""What `gatehouse doctor` checks for AdminService only: its two OAuth2 clients, UserService and Keycloak."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from gatehouse.admin.role_directory import RoleUpdateFailed
from gatehouse.admin.settings import AdminSettings
from gatehouse.admin.spec import CLIENT, ROLE_SYNC, client_credentials, role_directory
from gatehouse.oauth import OAuthError
from gatehouse.runtime import ServiceContext
from gatehouse.runtime.doctor import Problem, Result, attempt
from gatehouse.runtime.doctor.issuers import explain_oauth_error
from gatehouse.runtime.doctor.servers import require_serving
from gatehouse.settings import OAuthClientSettings
from gatehouse.users.v1 import users_pb2

_USERS = users_pb2.DESCRIPTOR.services_by_name["UserService"].full_name


async def check(context: ServiceContext[AdminSettings]) -> Sequence[Result]:
    """Run the checks."""
    settings = context.settings
    checks = [
        attempt("admin: client", _check_client(context, settings.client, CLIENT)),
        attempt("admin: UserService", require_serving(settings.users_target, _USERS, context.client_tls)),
    ]
    if settings.role_sync.admin_url:
        client = _check_client(context, settings.role_sync, ROLE_SYNC)
        checks.append(attempt("admin: role sync client", client))
        checks.append(attempt("admin: role sync", _check_role_sync(context)))
    return await asyncio.gather(*checks)


async def _check_client(
    context: ServiceContext[AdminSettings], settings: OAuthClientSettings, name: str
) -> str:
    """Request a token."""
    try:
        await client_credentials(context, settings, name).token()
    except OAuthError as error:
        raise explain_oauth_error(error, name) from None
    return f"{settings.client_id} gets tokens"


async def _check_role_sync(context: ServiceContext[AdminSettings]) -> str:
    """Ask for the roles of a user who does not exist."""
    settings = context.settings.role_sync
    try:
        await role_directory(context).set_role(str(uuid.uuid4()), "none", granted=False)
    except RoleUpdateFailed as error:
        raise Problem(
            f"{settings.admin_url}: {error.reason}; check {ROLE_SYNC}__ADMIN_URL, and that the client "
            f"{settings.client_id} has the role manage-users of realm-management"
        ) from None
    return f"{settings.client_id} may change roles"
