"""The ServiceSpec of AdminService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gatehouse.admin import DEFAULT_PORT
from gatehouse.admin.settings import AdminSettings
from gatehouse.admin.v1 import admin_pb2
from gatehouse.runtime import BuiltService, ServiceContext, ServiceSpec
from gatehouse.settings import TENANT, ConfigurationError, OAuthClientSettings, follow_secret

if TYPE_CHECKING:
    from gatehouse.admin.keycloak import KeycloakRoleDirectory
    from gatehouse.client import TokenManager
    from gatehouse.runtime import BackgroundWork
    from gatehouse.runtime.doctor import Result
    from gatehouse.users.v1 import users_pb2_grpc

CLIENT = "GATEHOUSE_ADMIN__CLIENT"
ROLE_SYNC = "GATEHOUSE_ADMIN__ROLE_SYNC"


async def build(context: ServiceContext[AdminSettings]) -> BuiltService:
    """Build AdminService, its channel to UserService and, if configured, the delivery of role changes."""
    from gatehouse.admin.repository import AdminRepository
    from gatehouse.admin.service import AdminService
    from gatehouse.client import connect
    from gatehouse.users.v1 import users_pb2_grpc

    tokens = client_credentials(context, context.settings.client, CLIENT)
    channel = await context.exit_stack.enter_async_context(
        connect(context.settings.users_target, tls=context.client_tls, tokens=tokens, tracer=context.tracer)
    )
    users: users_pb2_grpc.UserServiceAsyncStub = users_pb2_grpc.UserServiceStub(channel)
    service = AdminService(AdminRepository(context.database, context.clock), users)
    return BuiltService(service, _role_sync(context, users))


def _role_sync(
    context: ServiceContext[AdminSettings], users: users_pb2_grpc.UserServiceAsyncStub
) -> list[BackgroundWork]:
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
        issuer=_issuer(context, settings),
        logger=context.logger,
        metrics=DeliveryMetrics(context.meter),
        tracer=context.tracer,
        schedule=DeliverySchedule(poll=settings.poll_seconds),
    )
    return [notifications, delivery]


def role_directory(context: ServiceContext[AdminSettings]) -> KeycloakRoleDirectory:
    """Return the directory that `role_sync` names.

    Raises:
        ConfigurationError: Its URL is unset or invalid, or its client is incomplete.
    """
    from gatehouse.admin.keycloak import KeycloakRoleDirectory

    settings = context.settings.role_sync
    tokens = client_credentials(context, settings, ROLE_SYNC)
    try:
        return KeycloakRoleDirectory(
            context.http_for(settings), tokens, settings.admin_url or "", allow_http=settings.allow_http
        )
    except ValueError as error:
        raise ConfigurationError(
            f"{ROLE_SYNC}__ADMIN_URL: {error}; use https, or http on loopback or with "
            f"{ROLE_SYNC}__ALLOW_HTTP=true"
        ) from None


def _issuer(context: ServiceContext[AdminSettings], settings: OAuthClientSettings) -> str:
    return settings.issuer or context.issuers[0].issuer


async def check(context: ServiceContext[AdminSettings]) -> Sequence[Result]:
    """See gatehouse.admin.checks."""
    from gatehouse.admin.checks import check

    return await check(context)


def client_credentials(
    context: ServiceContext[AdminSettings], settings: OAuthClientSettings, name: str
) -> TokenManager:
    """Return a token source for the client in the section `name`.

    Raises:
        ConfigurationError: Its id or secret is missing.
    """
    from gatehouse.client import ClientCredentials, ClientSecretBasic, OAuthClient, TokenManager

    if not settings.client_id or not settings.client_secret:
        raise ConfigurationError(
            f"{name}__CLIENT_ID and {name}__CLIENT_SECRET: required by AdminService; set both"
        )
    issuer = _issuer(context, settings)
    if TENANT in issuer:
        raise ConfigurationError(f"{name}__ISSUER: required, because the issuer in ISSUERS contains {TENANT}")
    accepted = next((other for other in context.issuers if other.issuer == issuer), None)
    setting = f"{name.removeprefix('GATEHOUSE_')}__client_secret".lower()
    read_secret = follow_secret(setting, settings.client_secret, settings.client_secret_file)
    client = OAuthClient(
        context.http_for(settings),
        settings.client_id,
        ClientSecretBasic(lambda: read_secret() or ""),
        issuer=issuer,
        discovery_url=settings.discovery_url or (accepted.discovery_url if accepted else None),
        allow_http=settings.allow_http,
    )
    tokens = TokenManager(
        ClientCredentials(client, settings.scope, settings.audience, settings.resource),
        on_answer=lambda error: context.issuer_asked(issuer, f"token of {settings.client_id}", error),
    )
    context.exit_stack.push_async_callback(tokens.aclose)
    return tokens


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
