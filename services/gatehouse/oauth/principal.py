"""The caller, as a verified access token describes it, independent of the provider."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NewType

VerifiedClaims = NewType("VerifiedClaims", Mapping[str, Any])
"""Claims whose signature or introspection response has been verified. Only verifiers create them."""

_NO_NAMES: AbstractSet[str] = frozenset()
_NO_ROLES: Mapping[str, AbstractSet[str]] = MappingProxyType({})
_NO_CLAIMS = VerifiedClaims(MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Actor:
    """The party that acts for the subject of a token (claim `act`, RFC 8693 section 4.1).

    Attributes:
        issuer: `iss` in `act`; the issuer of the token if it has none.
        subject: `sub` in `act`.
    """

    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of an RPC.

    Attributes:
        issuer: `iss`; of an issuer with a placeholder for the tenant, that of the tenant.
        subject: `sub`; unique within the issuer only, so compare both.
        client_id: OAuth2 client that the token was issued to (`azp` or `client_id`).
        scopes: OAuth scopes (RFC 6749 section 3.3).
        roles: Realm roles; the groups of a provider that has groups instead.
        client_roles: Roles by the client that defines them.
        groups: Groups of the provider.
        permissions: Permissions, such as those of Auth0.
        expires_at: End of its validity in seconds since the epoch: `exp` plus the leeway of the issuer.
        tenant: Tenant or organization, or "".
        acr: `acr`, or "".
        auth_time: Time of the login in seconds since the epoch, or None.
        actor: The party that acts for the subject, if the token names one. Its rights are not added.
        claims: The verified claims that the setting `claims` of the issuer lists. Never log them.
    """

    issuer: str
    subject: str
    client_id: str
    scopes: frozenset[str]
    roles: AbstractSet[str] = _NO_NAMES
    client_roles: Mapping[str, AbstractSet[str]] = field(default_factory=lambda: _NO_ROLES)
    groups: AbstractSet[str] = _NO_NAMES
    permissions: AbstractSet[str] = _NO_NAMES
    expires_at: float = 0.0
    tenant: str = ""
    acr: str = ""
    auth_time: float | None = None
    actor: Actor | None = None
    claims: VerifiedClaims = field(default_factory=lambda: _NO_CLAIMS, repr=False, compare=False)

    def has_scope(self, scope: str) -> bool:
        """Return whether the token has `scope`."""
        return scope in self.scopes

    def has_role(self, role: str) -> bool:
        """Return whether the principal has the realm role or group `role`."""
        return role in self.roles

    def has_client_role(self, client: str, role: str) -> bool:
        """Return whether the principal has `role` of the client `client`."""
        return role in self.client_roles.get(client, ())

    def has_permission(self, permission: str) -> bool:
        """Return whether the principal has `permission`: a permission or a scope of that name."""
        return permission in self.permissions or permission in self.scopes

    def size(self) -> int:
        """Return about how many bytes of memory this principal takes."""
        actor = () if self.actor is None else (self.actor.issuer, self.actor.subject)
        texts = (self.subject, self.client_id, self.tenant, self.acr, *actor)
        names = (self.scopes, self.roles, self.client_roles, self.groups, self.permissions)
        return _OBJECT_BYTES + sum(map(_size, (*texts, *names, self.claims)))


# The principal, its numbers, its hash of the token and its place in the cache.
_OBJECT_BYTES = 600


def _size(value: object) -> int:
    size = sys.getsizeof(value)
    if isinstance(value, str):
        return size
    if isinstance(value, Mapping):
        return size + sum(100 + _size(name) + _size(inner) for name, inner in value.items())
    if isinstance(value, list | frozenset):
        return size + sum(map(_size, value))
    return size
