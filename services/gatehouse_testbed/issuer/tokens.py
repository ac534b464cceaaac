"""Issue and introspect tokens, by the scopes and mappers of the realm."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from authlib.oauth2.rfc6749 import InvalidRequestError, InvalidScopeError

from gatehouse_testbed.issuer.keys import SigningKeys
from gatehouse_testbed.issuer.mappers import MapperContext
from gatehouse_testbed.issuer.realm import Client, ClientScope, Realm, User
from gatehouse_testbed.issuer.sessions import RefreshToken, Session, Sessions

OPENID = "openid"


@dataclass(frozen=True, slots=True)
class ActiveToken:
    """An access or ID token that is active now."""

    claims: dict[str, Any]
    client: Client
    user: User
    session: Session | None


class Tokens:
    """The tokens of a realm.

    Args:
        realm: The realm.
        issuer: Its issuer URL.
        keys: Its signing keys.
        sessions: Its sessions.
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
        """Check that a client may request `scope`; None requests nothing, "" is invalid, as in Keycloak.

        Raises:
            InvalidScopeError: It may not.
        """
        known = {OPENID, *client.default_client_scopes, *client.optional_client_scopes}
        if scope == "" or (scope and not known.issuperset(scope.rstrip(" ").split(" ")) and scope.strip()):
            raise InvalidScopeError("Invalid scopes")

    def granted(self, client: Client, user: User, scope: str) -> list[ClientScope]:
        """Return the client scopes of a token; those that need a role which the user lacks are left out."""
        requested = scope.split()
        names = [*client.default_client_scopes, *(s for s in client.optional_client_scopes if s in requested)]
        roles = self.realm.roles_of(user)
        scopes = (self.realm.scopes[name] for name in names)
        # As in Keycloak, composite roles are expanded here too: one of the contained roles is enough.
        return [s for s in scopes if not s.roles or self.realm.expanded(s.roles) & roles]

    def access_token(
        self, client: Client, user: User, scope: str, session: Session | None, *, audience: str = ""
    ) -> tuple[str, int, str]:
        """Return a new access token, its lifetime in seconds, and its scope.

        Raises:
            InvalidRequestError: It cannot have `audience`, which is set.
        """
        lifetime = int(client.attributes.get("access.token.lifespan", self.realm.access_token_lifespan))
        granted = self.granted(client, user, scope)
        claims = self._new_claims("Bearer", client, lifetime)
        if session is not None:
            claims["sid"] = session.sid
        openid = [OPENID] if OPENID in scope.split() else []
        claims["scope"] = " ".join([*openid, *(s.name for s in granted if s.in_token)])
        claims |= self._mapped(client, user, granted, session, "access.token.claim")
        if audience:
            if audience not in audiences_of(claims):
                raise InvalidRequestError(f"Requested audience not available: {audience}")
            claims["aud"] = audience
        algorithm = (
            client.attributes.get("access.token.signed.response.alg")
            or self.realm.default_signature_algorithm
        )
        typ = "at+jwt" if client.attributes.get("access.token.header.type.rfc9068") == "true" else "JWT"
        return self.keys.sign(claims, algorithm, typ), lifetime, claims["scope"]

    def id_token(
        self, client: Client, user: User, scope: str, session: Session, nonce: str, access_token: str
    ) -> str:
        """Return a new ID token (OpenID Connect Core 1.0 section 2)."""
        claims = self._new_claims("ID", client, self.realm.access_token_lifespan) | {
            "aud": client.client_id,
            "sub": user.user_id,
            "sid": session.sid,
            "at_hash": _half_hash(access_token),
        }
        if session.auth_time is not None:
            claims["auth_time"] = session.auth_time
        if nonce:
            claims["nonce"] = nonce
        granted = self.granted(client, user, scope)
        claims = self._mapped(client, user, granted, session, "id.token.claim") | claims
        return self.keys.sign(claims, self.realm.default_signature_algorithm)

    def refresh_token(self, client: Client, scope: str, session: Session) -> str:
        """Return a new refresh token."""
        claims = self._new_claims("Refresh", client, self.realm.sso_session_idle_timeout) | {
            "aud": self.issuer,
            "sub": session.user_id,
            "sid": session.sid,
            "scope": scope,
        }
        value = self.keys.sign_for_self(claims)
        self.sessions.refresh_tokens[value] = RefreshToken(value, claims, client.client_id, scope, session)
        return value

    def _new_claims(self, typ: str, client: Client, lifetime: int) -> dict[str, Any]:
        now = int(self.clock())
        return {
            "exp": now + lifetime,
            "iat": now,
            "jti": secrets.token_hex(16),
            "iss": self.issuer,
            "typ": typ,
            "azp": client.client_id,
        }

    def is_session_valid(self, session: Session) -> bool:
        """Return whether a session is active and not too old."""
        now = self.clock()
        return (
            session.active
            and now - session.last_used < self.realm.sso_session_idle_timeout
            and now - session.started_at < self.realm.sso_session_max_lifespan
        )

    def active(self, token: str) -> ActiveToken | None:
        """Return an access or ID token if it is active, None otherwise."""
        claims = self.keys.verify(token)
        if claims is None or self.clock() >= claims["exp"] + 1 or claims["jti"] in self.sessions.revoked:
            return None
        client = self.realm.clients.get(claims["azp"])
        if client is None or not client.enabled:
            return None
        session = None
        if "sid" in claims:
            session = self.sessions.sessions.get(claims["sid"])
            if session is None or not self.is_session_valid(session):
                return None
            user = self.realm.users.get(session.user_id)
        elif "sub" in claims:  # a service account, not always that of the client (token exchange)
            user = self.realm.users.get(claims["sub"])
        else:
            user = self.realm.service_account(client.client_id)
        return ActiveToken(claims, client, user, session) if user is not None and user.enabled else None

    def userinfo(self, token: ActiveToken, session: Session) -> dict[str, Any]:
        """Return the claims about a user (OpenID Connect Core 1.0 section 5.3.2)."""
        granted = self.granted(token.client, token.user, token.claims["scope"])
        mapped = self._mapped(token.client, token.user, granted, session, "userinfo.token.claim")
        return {"sub": token.user.user_id, **mapped}

    def introspect(self, token: str, caller: Client, hint: str = "access_token") -> dict[str, Any]:
        """Return the introspection response (RFC 7662 section 2.2).

        As in Keycloak, mapped claims are current while `scope` is the token's. A token is inactive for
        callers that are not in its `aud`, and a refresh token for all but its client.
        """
        inactive = {"active": False}
        if hint == "refresh_token":
            return self._introspect_refresh_token(token, caller) or inactive
        found = self.active(token)
        if found is None:
            return inactive
        claims, client = found.claims, found.client
        if caller.client_id not in audiences_of(claims):
            return inactive
        if claims["typ"] == "Bearer":
            requested = claims["scope"].split()
            names = [
                *client.default_client_scopes,
                *(s for s in requested if s in client.optional_client_scopes),
            ]
            granted = [self.realm.scopes[name] for name in names]
            claims |= self._mapped(client, found.user, granted, found.session, "introspection.token.claim")
        if claims.get("scope") == "":
            del claims["scope"]
        return _introspection(claims, client.client_id, found.user)

    def _introspect_refresh_token(self, token: str, caller: Client) -> dict[str, Any] | None:
        found = self.sessions.refresh_tokens.get(token)
        if found is None or found.client_id != caller.client_id or not self.is_session_valid(found.session):
            return None
        user = self.realm.users.get(found.session.user_id)
        if user is None or not user.enabled or (found.used and self.realm.revoke_refresh_token):
            return None
        return _introspection(found.claims, found.client_id, user)

    def _mapped(
        self, client: Client, user: User, granted: Sequence[ClientScope], session: Session | None, target: str
    ) -> dict[str, Any]:
        return MapperContext(self.realm, client, user, granted, session).claims(target)


def audiences_of(claims: Mapping[str, Any]) -> Sequence[str]:
    """Return the audiences of a token (RFC 7519 section 4.1.3)."""
    audience = claims.get("aud", [])
    return [audience] if isinstance(audience, str) else audience


def _introspection(claims: Mapping[str, Any], client_id: str, user: User) -> dict[str, Any]:
    return {
        **claims,
        "client_id": client_id,
        "username": user.username,
        "token_type": claims["typ"],
        "active": True,
    }


def _half_hash(token: str) -> str:
    """Return `at_hash` for an algorithm with SHA-256 (OpenID Connect Core 1.0 section 3.1.3.6)."""
    half = hashlib.sha256(token.encode()).digest()[:16]
    return base64.urlsafe_b64encode(half).rstrip(b"=").decode()
