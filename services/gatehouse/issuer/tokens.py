"""Makes tokens, and says what they are worth now, by the rules of the realm's scopes and mappers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from authlib.oauth2.rfc6749 import InvalidScopeError

from gatehouse.issuer.keys import SigningKeys
from gatehouse.issuer.realm import Client, ClientScope, Mapper, Realm, User
from gatehouse.issuer.sessions import RefreshToken, Session, Sessions

OPENID = "openid"


class Tokens:
    """The tokens of a realm.

    Args:
        realm: The realm.
        issuer: Its issuer URL.
        keys: Its signing keys.
        sessions: What is remembered.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, realm: Realm, issuer: str, keys: SigningKeys, sessions: Sessions, clock: Callable[[], float]
    ) -> None:
        self.realm = realm
        self.issuer = issuer
        self.keys = keys
        self.sessions = sessions
        self.clock = clock

    def check_scope(self, client: Client, scope: str) -> None:
        """Refuses a scope that is not one of the client's.

        Raises:
            InvalidScopeError: As Keycloak does.
        """
        known = {OPENID, *client.default_scopes, *client.optional_scopes}
        if not known.issuperset(scope.split()):
            raise InvalidScopeError("Invalid scopes")

    def granted(self, client: Client, user: User, scope: str) -> list[ClientScope]:
        """Returns the client scopes that a token gets; one whose gate the user cannot pass is left out."""
        asked = scope.split()
        names = [*client.default_scopes, *(s for s in client.optional_scopes if s in asked)]
        roles = self.realm.roles_of(user)
        found = (self.realm.scopes[name] for name in names)
        return [s for s in found if not s.roles or s.roles & roles]

    def scope_text(self, granted: Sequence[ClientScope], scope: str) -> str:
        """Returns the value of `scope` in the token."""
        openid = [OPENID] if OPENID in scope.split() else []
        return " ".join([*openid, *(s.name for s in granted if s.in_token)])

    def access_token(
        self, client: Client, user: User, scope: str, session: Session | None
    ) -> tuple[str, int, str]:
        """Makes an access token; returns it, its lifetime in seconds, and its scope."""
        now = int(self.clock())
        seconds = int(client.attributes.get("access.token.lifespan", self.realm.access_token_seconds))
        granted = self.granted(client, user, scope)
        text = self.scope_text(granted, scope)
        claims: dict[str, Any] = {
            "exp": now + seconds,
            "iat": now,
            "jti": secrets.token_hex(16),
            "iss": self.issuer,
            "typ": "Bearer",
            "azp": client.client_id,
        }
        if session is not None:
            claims["sid"] = session.sid
        claims["scope"] = text
        claims.update(self._mapped(client, user, granted, session, "access.token.claim"))
        algorithm = client.attributes.get("access.token.signed.response.alg") or self.realm.algorithm
        kind = "at+jwt" if client.attributes.get("access.token.header.type.rfc9068") == "true" else "JWT"
        return self.keys.sign(claims, algorithm, kind), seconds, text

    def id_token(self, client: Client, user: User, scope: str, session: Session, nonce: str) -> str:
        """Makes an ID token (OpenID Connect Core 1.0 section 2)."""
        now = int(self.clock())
        claims: dict[str, Any] = {
            "exp": now + self.realm.access_token_seconds,
            "iat": now,
            "auth_time": session.auth_time,
            "jti": secrets.token_hex(16),
            "iss": self.issuer,
            "aud": client.client_id,
            "sub": user.user_id,
            "typ": "ID",
            "azp": client.client_id,
            "sid": session.sid,
        }
        if nonce:
            claims["nonce"] = nonce
        granted = self.granted(client, user, scope)
        mapped = self._mapped(client, user, granted, session, "id.token.claim")
        claims.update({k: v for k, v in mapped.items() if k not in claims})
        return self.keys.sign(claims, self.realm.algorithm)

    def refresh_token(self, client: Client, scope: str, session: Session) -> str:
        """Makes a refresh token."""
        token = RefreshToken(secrets.token_urlsafe(48), client.client_id, scope, session)
        self.sessions.refresh_tokens[token.value] = token
        return token.value

    def session_is_good(self, session: Session) -> bool:
        """Whether a session is alive and not too old."""
        now = self.clock()
        return (
            session.alive
            and now - session.last_used < self.realm.session_idle_seconds
            and now - session.auth_time < self.realm.session_max_seconds
        )

    def living(self, token: str) -> tuple[dict[str, Any], Client, User, Session | None] | None:
        """Returns what a token that is good now says and whose it is; None when it is not good."""
        claims = self.keys.verify(token)
        if claims is None or self.clock() >= claims["exp"] + 1 or claims["jti"] in self.sessions.revoked:
            return None
        client = self.realm.clients.get(claims["azp"])
        if client is None or not client.enabled:
            return None
        session: Session | None = None
        if "sid" in claims:
            session = self.sessions.sessions.get(claims["sid"])
            if session is None or not self.session_is_good(session):
                return None
            user = self.realm.users.get(session.user_id)
        else:
            user = self.realm.service_account(client.client_id)
        if user is None or not user.enabled:
            return None
        return claims, client, user, session

    def introspect(self, token: str, caller: Client) -> dict[str, Any]:
        """Says what a token is worth now (RFC 7662 section 2.2).

        As in Keycloak, mapped claims are today's while `scope` is the token's, and a caller that is not
        in `aud` learns nothing.
        """
        inactive = {"active": False}
        living = self.living(token)
        if living is None:
            return inactive
        claims, client, user, session = living
        aud = claims.get("aud", [])
        if caller.client_id not in ([aud] if isinstance(aud, str) else aud):
            return inactive
        if claims["typ"] == "Bearer":
            granted = [
                s for s in map(self.realm.scopes.get, self._scope_names(client, claims)) if s is not None
            ]
            claims.update(self._mapped(client, user, granted, session, "introspection.token.claim"))
        return {
            **claims,
            "client_id": client.client_id,
            "username": user.username,
            "token_type": "Bearer",
            "active": True,
        }

    @staticmethod
    def _scope_names(client: Client, claims: dict[str, Any]) -> list[str]:
        return [*client.default_scopes, *(s for s in claims["scope"].split() if s in client.optional_scopes)]

    def _mapped(
        self, client: Client, user: User, granted: Sequence[ClientScope], session: Session | None, target: str
    ) -> dict[str, Any]:
        claims: dict[str, Any] = {}
        for mapper in (*client.mappers, *(m for s in granted for m in s.mappers)):
            fallback = (
                mapper.config.get("access.token.claim", "false") if target.startswith("intro") else "false"
            )
            if mapper.config.get(target, fallback) == "true":
                self._map(mapper, claims, client, user, granted, session)
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) == 1:
            claims["aud"] = audience[0]
        return claims

    def _map(
        self,
        mapper: Mapper,
        claims: dict[str, Any],
        client: Client,
        user: User,
        granted: Sequence[ClientScope],
        session: Session | None,
    ) -> None:
        config = mapper.config
        name = config.get("claim.name", "")
        match mapper.kind:
            case "oidc-sub-mapper":
                claims["sub"] = user.user_id
            case "oidc-acr-mapper":
                claims["acr"] = session.acr if session is not None else "1"
            case "oidc-usersessionmodel-note-mapper":
                if session is not None and config.get("user.session.note") == "AUTH_TIME":
                    claims[name] = session.auth_time
            case "oidc-audience-mapper":
                audience = config.get("included.client.audience") or config.get("included.custom.audience")
                if audience and audience not in claims.setdefault("aud", []):
                    claims["aud"].append(audience)
            case "oidc-full-name-mapper":
                claims["name"] = f"{user.first_name} {user.last_name}".strip()
            case "oidc-usermodel-attribute-mapper" | "oidc-usermodel-property-mapper":
                self._map_attribute(config.get("user.attribute", ""), name, claims, user)
            case "oidc-usermodel-realm-role-mapper" | "oidc-usermodel-client-role-mapper":
                self._map_roles(mapper, claims, client, user, granted)
            case _:
                pass  # as in Keycloak, a mapper adds a claim or does nothing

    @staticmethod
    def _map_attribute(attribute: str, name: str, claims: dict[str, Any], user: User) -> None:
        values = {
            "username": user.username,
            "email": user.email,
            "emailVerified": user.email_verified,
            "firstName": user.first_name,
            "lastName": user.last_name,
        }
        value = values.get(attribute, "")
        if value != "":
            _put(claims, name, value)

    def _map_roles(
        self,
        mapper: Mapper,
        claims: dict[str, Any],
        client: Client,
        user: User,
        granted: Sequence[ClientScope],
    ) -> None:
        name = mapper.config.get("claim.name", "")
        if mapper.kind == "oidc-usermodel-realm-role-mapper":
            roles = self.realm.roles_of(user)
            if not client.full_scope:
                roles &= client.roles | {r for s in granted for r in s.roles}
            if roles:
                _put(claims, name, sorted(roles))
            return
        for owner, held in user.client_roles.items():
            shown = held if client.full_scope else held & client.client_roles.get(owner, frozenset())
            if shown:
                _put(claims, name, sorted(shown), owner)


def _put(claims: dict[str, Any], name: str, value: object, client_id: str = "") -> None:
    """Sets a claim by its path; dots go down, as in `realm_access.roles`."""
    *way, last = name.replace("${client_id}", "\0").split(".")
    place = claims
    for step in way:
        place = place.setdefault(step.replace("\0", client_id), {})
    place[last.replace("\0", client_id)] = value
