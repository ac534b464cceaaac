"""Settings of AdminService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from gatehouse.settings import GrpcTarget, OAuthClientSettings, ServiceSettings


class UsersClientSettings(OAuthClientSettings):
    """The OAuth2 client with which AdminService calls UserService."""

    client_id: str | None = None
    """Client with which AdminService gets its own tokens; required for calls to UserService."""
    scope: str = "read:users"
    """Scopes to request, separated by spaces."""


class RoleSyncSettings(OAuthClientSettings):
    """Delivery of role changes to the admin API of Keycloak; disabled if `admin_url` is unset."""

    admin_url: str | None = None
    """URL of the realm in Keycloak's admin API, such as `https://id.example.com/admin/realms/r`; role changes
    are not delivered if unset."""
    client_id: str | None = "gatehouse-role-sync"
    """Client whose service account may change role mappings."""
    poll_seconds: float = Field(1.0, gt=0, le=60)
    """Interval at which the outbox is polled; a notification wakes the worker earlier."""


class AdminSettings(ServiceSettings):
    """Settings of AdminService."""

    renamed: ClassVar[Mapping[str, str]] = {
        "client__users_target": "admin__users_target",
        "client": "admin__client",
        "role_sync": "admin__role_sync",
    }

    users_target: GrpcTarget = "127.0.0.1:50051"
    """gRPC target of UserService; a `dns:///` target balances calls over all addresses."""
    call_users_as: Literal["service", "caller"] = "service"
    """Whose token to send to UserService: that of AdminService (`service`), or one for the caller (`caller`),
    from a token exchange (RFC 8693). With `caller`, callers also need the scopes in `client.scope`."""
    client: UsersClientSettings = Field(default_factory=UsersClientSettings)
    role_sync: RoleSyncSettings = Field(default_factory=RoleSyncSettings)
