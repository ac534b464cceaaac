"""Makes tokens, and says what they are worth now, by the rules of the realm's scopes and mappers."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from authlib.oauth2.rfc6749 import InvalidScopeError

from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.realm import Client, ClientScope, Mapper, Realm, User
from gatehouse_testbed.issuer.sessions import RefreshToken, Session, Sessions

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

    def check_scope(self, client: Client, scope: str | None) -> None:
        """Refuses a scope that is not one of the client's; one that is asked for by its empty name is none.

        Raises:
            InvalidScopeError: As Keycloak does.
        """
        known = {OPENID, *client.default_scopes, *client.optional_scopes}
        if scope == "" or (scope and not known.issuperset(scope.rstrip(" ").split(" ")) and scope.strip()):
            raise InvalidScopeError("Invalid scopes")

    def granted(self, client: Client, user: User, scope: str) -> list[ClientScope]:
        """Returns the client scopes that a token gets; one whose gate the user cannot pass is left out."""
        asked = scope.split()
        names = [*client.default_scopes, *(s for s in client.optional_scopes if s in asked)]
        roles = self.realm.roles_of(user)
        found = (self.realm.scopes[name] for name in names)
        # As in Keycloak, the gate is expanded too: whoever holds a part of a composite role passes.
        return [s for s in found if not s.roles or self.realm.expanded(s.roles) & roles]

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

    def id_token(
        self, client: Client, user: User, scope: str, session: Session, nonce: str, access_token: str
    ) -> str:
        """Makes an ID token (OpenID Connect Core 1.0 section 2)."""
        now = int(self.clock())
        claims: dict[str, Any] = {
            "exp": now + self.realm.access_token_seconds,
            "iat": now,
            "jti": secrets.token_hex(16),
            "iss": self.issuer,
            "aud": client.client_id,
            "sub": user.user_id,
            "typ": "ID",
            "azp": client.client_id,
            "sid": session.sid,
            "at_hash": _half_hash(access_token),
        }
        if session.auth_time is not None:
            claims["auth_time"] = session.auth_time
        if nonce:
            claims["nonce"] = nonce
        granted = self.granted(client, user, scope)
        mapped = self._mapped(client, user, granted, session, "id.token.claim")
        claims.update({k: v for k, v in mapped.items() if k not in claims})
        return self.keys.sign(claims, self.realm.algorithm)

    def refresh_token(self, client: Client, scope: str, session: Session) -> str:
        """Makes a refresh token."""
        now = int(self.clock())
        claims = {
            "exp": now + self.realm.session_idle_seconds,
            "iat": now,
            "jti": secrets.token_hex(16),
            "iss": self.issuer,
            "aud": self.issuer,
            "sub": session.user_id,
            "typ": "Refresh",
            "azp": client.client_id,
            "sid": session.sid,
            "scope": scope,
        }
        value = self.keys.sign_for_self(claims)
        self.sessions.refresh_tokens[value] = RefreshToken(value, claims, client.client_id, scope, session)
        return value

    def session_is_good(self, session: Session) -> bool:
        """Whether a session is alive and not too old."""
        now = self.clock()
        return (
            session.alive
            and now - session.last_used < self.realm.session_idle_seconds
            and now - session.began < self.realm.session_max_seconds
        )

    def living(self, token: str) -> tuple[dict[str, Any], Client, User, Session | None] | None:
        """Returns what a token that is good now says and whose it is; None when it is not good."""
        claims = self.keys.verify(token)
        if claims is None or self.clock() >= claims["exp"] + 1 or claims["jti"] in self.sessions.revoked:
            return None
        client = self.realm.clients.get(claims["azp"])
        if client is None or not client.enabled:
            return None
        session = self.sessions.sessions.get(claims["sid"]) if "sid" in claims else None
        user = self._user_now(claims, client, session)
        return None if user is None else (claims, client, user, session)

    def userinfo(self, client: Client, user: User, scope: str, session: Session) -> dict[str, Any]:
        """Says what the mappers of the granted scopes tell of a user (OpenID Connect Core section 5.3.2)."""
        mapped = self._mapped(
            client, user, self.granted(client, user, scope), session, "userinfo.token.claim"
        )
        return {"sub": user.user_id, **mapped}

    def introspect(self, token: str, caller: Client, hint: str = "access_token") -> dict[str, Any]:
        """Says what a token is worth now (RFC 7662 section 2.2).

        As in Keycloak, mapped claims are today's while `scope` is the token's, and a caller that is not
        in `aud`, or whose refresh token it is not, learns nothing.
        """
        inactive = {"active": False}
        if hint == "refresh_token":
            return self._introspect_refresh_token(token, caller) or inactive
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
        if claims.get("scope") == "":
            del claims["scope"]
        return {
            **claims,
            "client_id": client.client_id,
            "username": user.username,
            "token_type": claims["typ"],
            "active": True,
        }

    def _user_now(self, claims: dict[str, Any], client: Client, session: Session | None) -> User | None:
        """Returns the user of a token when its session and the user are good."""
        if "sid" not in claims:
            user = self.realm.service_account(client.client_id)
        elif session is not None and self.session_is_good(session):
            user = self.realm.users.get(session.user_id)
        else:
            return None
        return user if user is not None and user.enabled else None

    def _introspect_refresh_token(self, token: str, caller: Client) -> dict[str, Any] | None:
        found = self.sessions.refresh_tokens.get(token)
        if found is None or found.client_id != caller.client_id or not self.session_is_good(found.session):
            return None
        user = self.realm.users.get(found.session.user_id)
        if user is None or not user.enabled or (found.used and self.realm.rotates_refresh_tokens):
            return None
        return {
            **found.claims,
            "client_id": found.client_id,
            "username": user.username,
            "token_type": "Refresh",
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
                    _put_unless_none(claims, name, session.auth_time)
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
                roles &= self.realm.expanded([*client.roles, *(r for s in granted for r in s.roles)])
            if roles:
                _put(claims, name, sorted(roles))
            return
        for owner, held in user.client_roles.items():
            shown = held if client.full_scope else held & client.client_roles.get(owner, frozenset())
            if shown:
                _put(claims, name, sorted(shown), owner)


def _half_hash(token: str) -> str:
    """Returns `at_hash` for a token signed with a SHA-256 algorithm (OpenID Connect Core 3.1.3.6)."""
    half = hashlib.sha256(token.encode()).digest()[:16]
    return base64.urlsafe_b64encode(half).rstrip(b"=").decode()


def _put_unless_none(claims: dict[str, Any], name: str, value: object) -> None:
    if value is not None:
        _put(claims, name, value)


def _put(claims: dict[str, Any], name: str, value: object, client_id: str = "") -> None:
    """Sets a claim by its path; dots go down, as in `realm_access.roles`."""
    *way, last = name.replace("${client_id}", "\0").split(".")
    place = claims
    for step in way:
        place = place.setdefault(step.replace("\0", client_id), {})
    place[last.replace("\0", client_id)] = value
