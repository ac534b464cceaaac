"""What `gatehouse doctor` checks for AdminService only: its two OAuth2 clients, UserService and Keycloak."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Sequence

from gatehouse.admin.clients import (
    CALL_USERS_AS,
    CLIENT,
    ROLE_SYNC,
    client_credentials,
    exchanged_tokens,
    issuer_of,
    role_directory,
)
from gatehouse.admin.role_directory import RoleUpdateFailed
from gatehouse.admin.settings import AdminSettings
from gatehouse.oauth import OAuthError
from gatehouse.runtime import ServiceContext
from gatehouse.runtime.doctor import Problem, Result, Status, attempt
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
    if settings.call_users_as == "caller":
        checks.append(attempt("admin: token exchange", _check_exchange(context)))
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


async def _check_exchange(context: ServiceContext[AdminSettings]) -> str:
    """Exchange a token of the client itself, because there is no caller."""
    settings = context.settings.client
    exchanged = exchanged_tokens(context)
    try:
        own = await client_credentials(context, settings, CLIENT).token()
        await exchanged.source(own, math.inf).token()
    except OAuthError as error:
        problem = explain_oauth_error(error, f"token exchange of {settings.client_id}")
        raise Problem(
            f"{problem}; allow token exchange for the client at the issuer, or set {CALL_USERS_AS}=service"
        ) from None
    if len(context.issuers) > 1:
        raise Problem(
            f"only for callers of {issuer_of(context, settings)}; those of other issuers are refused where "
            "UserService is called",
            Status.WARNING,
        )
    return f"{settings.client_id} exchanges tokens"


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
