"""Claims that the protocol mappers of a realm add to tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatehouse_testbed.issuer.realm import Client, ClientScope, Realm, User
from gatehouse_testbed.issuer.sessions import Session

_Claims = dict[str, Any]
_Config = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MapperContext:
    """The token whose claims are mapped.

    Attributes:
        realm: The realm.
        client: Client of the token.
        user: User of the token.
        granted: Client scopes of the token.
        session: Session of the token, None for a service account.
    """

    realm: Realm
    client: Client
    user: User
    granted: Sequence[ClientScope]
    session: Session | None

    def claims(self, target: str) -> _Claims:
        """Return the claims of all mappers that are enabled for a target; mappers of unknown types add none.

        Args:
            target: `access.token.claim`, `id.token.claim`, `userinfo.token.claim` or
                `introspection.token.claim`; the last one defaults to the first.
        """
        claims: _Claims = {}
        fallback = "access.token.claim" if target == "introspection.token.claim" else target
        for mapper in (
            *self.client.protocol_mappers,
            *(m for scope in self.granted for m in scope.protocol_mappers),
        ):
            if (
                mapper.protocol_mapper in _MAPPERS
                and mapper.config.get(target, mapper.config.get(fallback)) == "true"
            ):
                _MAPPERS[mapper.protocol_mapper](self, mapper.config, claims)
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) == 1:
            claims["aud"] = audience[0]
        return claims


def _subject(context: MapperContext, _: _Config, claims: _Claims) -> None:
    claims["sub"] = context.user.user_id


def _acr(context: MapperContext, _: _Config, claims: _Claims) -> None:
    claims["acr"] = context.session.acr if context.session is not None else "1"


def _session_note(context: MapperContext, config: _Config, claims: _Claims) -> None:
    auth_time = context.session.auth_time if context.session is not None else None
    if config.get("user.session.note") == "AUTH_TIME" and auth_time is not None:
        _set(claims, config, auth_time)


def _audience(_: MapperContext, config: _Config, claims: _Claims) -> None:
    audience = config.get("included.client.audience") or config.get("included.custom.audience")
    if audience and audience not in claims.setdefault("aud", []):
        claims["aud"].append(audience)


def _full_name(context: MapperContext, _: _Config, claims: _Claims) -> None:
    claims["name"] = f"{context.user.first_name} {context.user.last_name}".strip()


def _attribute(context: MapperContext, config: _Config, claims: _Claims) -> None:
    user = context.user
    values: dict[str, str | bool] = {
        "username": user.username,
        "email": user.email,
        "emailVerified": user.email_verified,
        "firstName": user.first_name,
        "lastName": user.last_name,
    }
    value = values.get(config.get("user.attribute", ""), "")
    if value != "":
        _set(claims, config, value)


def _realm_roles(context: MapperContext, config: _Config, claims: _Claims) -> None:
    client, realm = context.client, context.realm
    roles = realm.roles_of(context.user)
    if not client.full_scope_allowed:
        roles &= realm.expanded([*client.roles, *(r for s in context.granted for r in s.roles)])
    if roles:
        _set(claims, config, sorted(roles))


def _client_roles(context: MapperContext, config: _Config, claims: _Claims) -> None:
    client = context.client
    for owner, held in context.user.client_roles.items():
        roles = held if client.full_scope_allowed else held & client.client_roles.get(owner, frozenset())
        if roles:
            _set(claims, config, sorted(roles), owner)


def _set(claims: _Claims, config: _Config, value: object, client_id: str = "") -> None:
    """Set the claim that a mapper names by its path, such as `resource_access.${client_id}.roles`."""
    # A client id may contain dots.
    *path, last = config.get("claim.name", "").replace("${client_id}", "\0").split(".")
    parent = claims
    for step in path:
        parent = parent.setdefault(step.replace("\0", client_id), {})
    parent[last.replace("\0", client_id)] = value


_MAPPERS: Mapping[str, Callable[[MapperContext, _Config, _Claims], None]] = {
    "oidc-sub-mapper": _subject,
    "oidc-acr-mapper": _acr,
    "oidc-usersessionmodel-note-mapper": _session_note,
    "oidc-audience-mapper": _audience,
    "oidc-full-name-mapper": _full_name,
    "oidc-usermodel-attribute-mapper": _attribute,
    "oidc-usermodel-property-mapper": _attribute,
    "oidc-usermodel-realm-role-mapper": _realm_roles,
    "oidc-usermodel-client-role-mapper": _client_roles,
}
